//! kinglet-quantizer
