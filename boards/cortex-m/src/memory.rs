//! Memory and random contents for programs that call kernels without a model.

use kinglet_kernels::layout::{GROUP, PANEL};
use kinglet_kernels::{Activations, ActivationsMut, Format, Matrix, activations};

/// Memory, handed out from the start in pieces aligned to 64 bytes.
pub struct Memory<'a>(&'a mut [u8]);

impl<'a> Memory<'a> {
    /// All of `bytes`.
    ///
    /// # Panics
    /// When they are not aligned to 64.
    pub fn new(bytes: &'a mut [u8]) -> Self {
        assert!(bytes.as_ptr().align_offset(64) == 0);
        Self(bytes)
    }

    /// The next `n` bytes.
    pub fn bytes(&mut self, n: usize) -> &'a mut [u8] {
        let (bytes, rest) = core::mem::take(&mut self.0).split_at_mut(n.next_multiple_of(64));
        self.0 = rest;
        &mut bytes[..n]
    }

    /// The next `n` numbers.
    pub fn floats(&mut self, n: usize) -> &'a mut [f32] {
        bytemuck::cast_slice_mut(self.bytes(4 * n))
    }

    /// The next `n` codes.
    pub fn codes(&mut self, n: usize) -> &'a mut [i8] {
        bytemuck::cast_slice_mut(self.bytes(n))
    }

    /// The next `n` scales of a cache.
    pub fn halves(&mut self, n: usize) -> &'a mut [u16] {
        bytemuck::cast_slice_mut(self.bytes(2 * n))
    }

    /// The next `n` sums of codes.
    pub fn sums(&mut self, n: usize) -> &'a mut [i16] {
        bytemuck::cast_slice_mut(self.bytes(2 * n))
    }
}

/// Numbers without meaning, the same every time.
pub struct Random(pub u32);

impl Random {
    /// The next 16 bits.
    pub fn bits(&mut self) -> u32 {
        self.0 = self.0.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        self.0 >> 16
    }

    /// A number in `-limit..limit`.
    pub fn float(&mut self, limit: f32) -> f32 {
        (self.bits() as f32 / 32_768.0 - 1.0) * limit
    }

    /// Fills `out` with numbers in `-limit..limit`.
    pub fn floats(&mut self, out: &mut [f32], limit: f32) {
        out.fill_with(|| self.float(limit));
    }

    /// Fills `out`; every fourth byte is 0x80, the least weight and the least sub-scale, and some
    /// are 0x7f.
    pub fn fill(&mut self, out: &mut [u8]) {
        out.fill_with(|| match self.bits() {
            r if r & 3 == 0 => 0x80,
            r if r & 31 == 1 => 0x7f,
            r => (r >> 5) as u8,
        });
    }

    /// Fills a matrix: any codes and sub-scales, small row scales.
    ///
    /// # Panics
    /// When `out` has not the bytes of such a matrix.
    pub fn matrix(&mut self, format: Format, rows: usize, cols: usize, out: &mut [u8]) {
        let planes = format.planes(rows, cols).expect("a shape");
        let (codes, scales) = out.split_at_mut(planes.row_scales);
        self.fill(codes);
        for scale in scales.as_chunks_mut().0 {
            *scale = self.float(0.01).to_le_bytes();
        }
    }

    /// A sparse matrix of any codes with `quarters` of four blocks, scattered.
    ///
    /// # Panics
    /// When a dimension is zero.
    pub fn sparse<'a>(
        &mut self,
        memory: &mut Memory<'a>,
        format: Format,
        [rows, cols]: [usize; 2],
        quarters: usize,
    ) -> Matrix<'a> {
        let (panels, groups) = (rows.div_ceil(PANEL), cols.div_ceil(GROUP));
        let there = |p: usize, g: usize| (p + g * g / 3) % 4 < quarters;
        let count = |p: usize| (0..groups).filter(|&g| there(p, g)).count();
        let blocks = (0..panels).map(count).sum();
        let planes = format.sparse_planes(rows, cols, blocks).expect("a shape");
        let bytes = memory.bytes(planes.end);
        let (codes, scales) = bytes.split_at_mut(planes.row_scales);
        self.fill(codes);
        let (scales, index) = scales.split_at_mut(planes.index - planes.row_scales);
        for scale in scales.as_chunks_mut().0 {
            *scale = self.float(0.01).to_le_bytes();
        }
        let mut before = 0;
        for (p, words) in
            index.chunks_exact_mut(4 * (1 + groups.div_ceil(32))).take(panels).enumerate()
        {
            words.fill(0);
            words[..4].copy_from_slice(&(before as u32).to_le_bytes());
            (0..groups).filter(|&g| there(p, g)).for_each(|g| words[4 + g / 8] |= 1 << (g % 8));
            before += count(p);
        }
        Matrix::sparse(format, rows, cols, bytes).expect("a matrix")
    }

    /// Activations as they come from [`kinglet_kernels::Isa::quantize`], -127 and 127 among them.
    /// Those of two and three rows start at an odd address, which kernels must bear.
    pub fn activations<'a>(
        &mut self,
        memory: &mut Memory<'a>,
        rows: usize,
        cols: usize,
    ) -> Activations<'a> {
        let odd = rows / 2 % 2;
        let codes = &mut memory.codes(odd + rows * activations::stride(cols))[odd..];
        let sums = memory.sums(rows * activations::sums(cols));
        let scales = memory.floats(rows);
        let mut to = ActivationsMut::new(codes, sums, scales, cols);
        for m in 0..rows {
            let (codes, sums, scale) = to.row(m);
            codes.fill(0);
            codes[..cols].fill_with(|| match self.bits() {
                r if r & 7 == 0 => -127,
                r if r & 7 == 1 => 127,
                r => (r >> 3) as u8 as i8,
            });
            for c in codes.iter_mut().filter(|c| **c == -128) {
                *c = 0;
            }
            for (sum, group) in sums.iter_mut().zip(codes.chunks(32)) {
                *sum = group.iter().map(|&c| i16::from(c)).sum();
            }
            *scale = self.float(0.1);
        }
        Activations::new(codes, sums, scales, cols)
    }

    /// Fills a cache.
    pub fn cache(&mut self, codes: &mut [i8], scales: &mut [u16]) {
        self.fill(bytemuck::cast_slice_mut(codes));
        scales.fill_with(|| (self.float(0.02).abs().to_bits() >> 16) as u16);
    }
}
