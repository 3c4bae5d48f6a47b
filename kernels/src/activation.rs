//! The functions of a feed-forward.

/// A function of one number: finite of every finite number, and NaN of NaN. Its number here is its
/// code in a file.
///
/// A new one is a row of [`Activation::ALL`] and its formula in `scalar/families.rs`;
/// `docs/extending.md` says what else knows of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Activation {
    /// `x / (1 + e^-x)`.
    Silu = 0,
    /// `x (1 + erf(x / sqrt 2)) / 2`.
    Gelu = 1,
    /// `x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) / 2`.
    GeluTanh = 2,
    /// `max(x, 0)`.
    Relu = 3,
    /// The hyperbolic tangent.
    Tanh = 4,
    /// `x`.
    Identity = 5,
    /// `x / (1 + e^(-1.702 x))`, the GELU of CLIP and of the first GPT (Hendrycks and Gimpel,
    /// arXiv 1606.08415).
    QuickGelu = 6,
}

impl Activation {
    /// All, by their codes.
    pub const ALL: [Self; 7] = [
        Self::Silu,
        Self::Gelu,
        Self::GeluTanh,
        Self::Relu,
        Self::Tanh,
        Self::Identity,
        Self::QuickGelu,
    ];

    /// Its code in a file.
    pub const fn code(self) -> u8 {
        self as u8
    }

    /// The activation of a code.
    pub fn of_code(code: u8) -> Option<Self> {
        Self::ALL.get(usize::from(code)).copied()
    }

    /// What people call it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Silu => "silu",
            Self::Gelu => "gelu",
            Self::GeluTanh => "gelu (tanh)",
            Self::Relu => "relu",
            Self::Tanh => "tanh",
            Self::Identity => "no activation",
            Self::QuickGelu => "quick gelu",
        }
    }
}

const _: () = {
    let mut code = 0;
    while code < Activation::ALL.len() {
        assert!(Activation::ALL[code].code() as usize == code, "a code is a place in the list");
        code += 1;
    }
};
