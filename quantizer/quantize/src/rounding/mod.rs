//! Rounding matrices: from f32 rows and what is known of their inputs to codes and scales, and from
//! those to the bytes of a file and back.
//!
//! | module | what it does |
//! |---|---|
//! | `levels`, `round`, `offsets`, `codebook` | a row to the nearest codes; the levels of a matrix |
//! | `hessian`, `gptq`, `evidence`, `linear` | a product against a calibration |
//! | `rounded` | rounded blocks in memory |
//! | `pack`, `packed`, `dequantize` | the bytes of a matrix; running it; and its weights again |

pub(crate) mod codebook;
pub mod dequantize;
pub(crate) mod evidence;
pub(crate) mod gptq;
pub(crate) mod hessian;
pub mod levels;
pub(crate) mod linear;
pub(crate) mod offsets;
pub mod pack;
pub(crate) mod packed;
pub mod round;
pub(crate) mod rounded;

pub use hessian::{Hessian, HessianError, cholesky};
pub use linear::linear;
pub use rounded::{Rounded, RoundedBlock, RoundedLinear, assembled, block_weights};
