//! Numbers that follow from a seed: SplitMix64 (Steele, Lea and Flood 2014).

/// A stream of them.
pub struct Random(pub u64);

/// A number whose bits depend on all bits of another.
pub fn mixed(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// A number that depends on a seed and some bytes.
pub fn hash(seed: u64, bytes: &[u8]) -> u64 {
    bytes.iter().fold(mixed(seed), |all, &byte| {
        mixed(all ^ u64::from(byte).wrapping_add(0x9e37_79b9_7f4a_7c15))
    })
}

impl Random {
    /// Any 64 bits.
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mixed(self.0)
    }

    /// From -1 to 1.
    pub fn uniform(&mut self) -> f32 {
        (self.next_u64() >> 40) as f32 / 8_388_608.0 - 1.0
    }

    /// Puts things into a random order.
    pub fn shuffle<T>(&mut self, all: &mut [T]) {
        for i in (1..all.len()).rev() {
            let j = ((u128::from(self.next_u64()) * (i as u128 + 1)) >> 64) as usize;
            all.swap(i, j);
        }
    }
}
