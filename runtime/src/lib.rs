//! kinglet
