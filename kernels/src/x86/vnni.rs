//! `vpdpbusd` in registers of 32 bytes (AVX-VNNI) and of 64 (AVX-512 VNNI): one text for both,
//! since they differ only in how many registers hold a tile of 16 rows.
//!
//! The instruction adds, in each 32-bit lane, four products of unsigned with signed bytes. Weights
//! are the unsigned operand: int8 as `w ^ 0x80 = w + 128`, nibbles as they are, levels of a
//! codebook as `level + 128`. What is added to every weight is corrected for with the sum of the
//! activations, which comes with them, as the value that a sum starts from. Sums wrap, so the
//! detour is exact.
//!
//! One row of activations: several panels side by side, because one stream of memory reaches 11 to
//! 12 GB/s on a core, several 17 to 20. Several rows: a group's weights are unpacked once into
//! eight registers, and all rows pass by; their sums wait in the first-level cache.

/// The kernels of a module that defines `Reg`, `HALVES` (registers in a tile) and the operations on
/// registers.
// Longer than sixty lines: the features of a function are literal text, which functions generic over
// registers could not choose, so that the whole text has them as its parameter.
macro_rules! kernels {
    ($features:tt) => {
        /// Rows of activations for one reading of a panel: their sums take 4 KiB, their codes stay
        /// in the second-level cache.
        const ROWS: usize = 64;
        /// Bytes between what is computed and what is asked for. Hardware follows a stream to the
        /// end of its 4 KiB page only.
        const AHEAD: usize = 2048;
        /// Rows whose sums advance side by side: as many as an instruction's latency has starts.
        const TOGETHER: usize = 8;
        const QUADS: usize = GROUP / QUAD;

        /// The registers of a tile.
        type Tile = [Reg; HALVES];

        // Loops by index over slices of one length: they unroll, and sums stay in registers.
        // Closures inside `map` would not be inlined, since `map` is compiled without the features.

        #[inline]
        #[target_feature(enable = $features)]
        fn load_tile(tile: &[u8; TILE]) -> Tile {
            let parts = tile.as_chunks::<{ TILE / HALVES }>().0;
            let mut out = [set1(0); HALVES];
            for h in 0..HALVES {
                out[h] = load(&parts[h]);
            }
            out
        }

        /// How far ahead of byte `at` of a panel of `len` bytes lies what its stream comes to
        /// [`AHEAD`] bytes later: in the same panel, or in the one that follows when `side` panels
        /// are read side by side.
        #[inline(always)]
        fn ahead(at: usize, len: usize, side: usize) -> usize {
            if at + AHEAD < len { AHEAD } else { AHEAD + (side - 1) * len }
        }

        /// Asks for what lies `ahead` of a tile.
        #[inline]
        #[target_feature(enable = $features)]
        fn prefetch(tile: &[u8; TILE], ahead: usize) {
            // Miri does not know the hint.
            if !cfg!(miri) {
                _mm_prefetch::<_MM_HINT_T0>(tile.as_ptr().wrapping_add(ahead).cast());
            }
        }

        /// Four activations in every lane.
        #[inline]
        #[target_feature(enable = $features)]
        fn broadcast(x: &[i8; QUAD]) -> Reg {
            set1(i32::from_le_bytes([x[0] as u8, x[1] as u8, x[2] as u8, x[3] as u8]))
        }

        #[inline]
        #[target_feature(enable = $features)]
        fn to_array(acc: Tile) -> [i32; PANEL] {
            let mut out = [0; PANEL];
            let parts = out.as_chunks_mut::<{ PANEL / HALVES }>().0;
            for h in 0..HALVES {
                store(&mut parts[h], acc[h]);
            }
            out
        }

        /// In registers: the compiler would take the array apart.
        #[inline]
        #[target_feature(enable = $features)]
        fn add_sums(sums: &mut [i32; PANEL], part: &[i32; PANEL]) {
            let sums: &mut [[u8; TILE / HALVES]; HALVES] = bytemuck::cast_mut(sums);
            let part: &[[u8; TILE / HALVES]; HALVES] = bytemuck::cast_ref(part);
            for h in 0..HALVES {
                let sum = add(load(&sums[h]), load(&part[h]));
                store(bytemuck::cast_mut(&mut sums[h]), sum);
            }
        }

        /// Tiles to sums.
        #[inline]
        #[target_feature(enable = $features)]
        fn to_sums<const P: usize, const M: usize>(acc: [[Tile; M]; P]) -> Sums<P, M> {
            let mut out = [[[0; PANEL]; M]; P];
            for p in 0..P {
                for m in 0..M {
                    out[p][m] = to_array(acc[p][m]);
                }
            }
            out
        }

        /// The unsigned weights of low and high nibbles: greater by 8, or what they index in
        /// `levels`, greater by 128.
        #[inline]
        #[target_feature(enable = $features)]
        fn unpack<const CODEBOOK: bool>(bytes: Reg, levels: Reg) -> [Reg; 2] {
            let mask = set1(0x0f0f_0f0f);
            let nibbles = [and(bytes, mask), and(shift_right_4(bytes), mask)];
            if CODEBOOK {
                [shuffle(levels, nibbles[0]), shuffle(levels, nibbles[1])]
            } else {
                nibbles
            }
        }

        /// What a group's weights are: the number of their tiles, and whether nibbles are levels of
        /// a codebook.
        const fn is_uniform(tiles: usize, codebook: bool) -> bool {
            tiles < QUADS && !codebook
        }

        /// What is added to every weight.
        const fn zero(uniform: bool) -> i32 {
            if uniform { INT4_ZERO } else { 128 }
        }

        /// Register `h` of the unsigned weights of quads `2 v` and `2 v + 1` of a group: of bytes
        /// (8 tiles) or of nibbles (4).
        #[inline]
        #[target_feature(enable = $features)]
        fn quad_pair<const TILES: usize, const CODEBOOK: bool>(
            tiles: &[[u8; TILE]; TILES],
            v: usize,
            h: usize,
            levels: Reg,
        ) -> [Reg; 2] {
            if TILES == QUADS {
                let sign = set1(0x8080_8080u32 as i32);
                [xor(load_tile(&tiles[2 * v])[h], sign), xor(load_tile(&tiles[2 * v + 1])[h], sign)]
            } else {
                unpack::<CODEBOOK>(load_tile(&tiles[v])[h], levels)
            }
        }

        /// A codebook for [`unpack`].
        #[inline]
        #[target_feature(enable = $features)]
        fn table(levels: &[i8; 16]) -> Reg {
            let mut unsigned = [0; 16];
            for i in 0..16 {
                unsigned[i] = levels[i] as u8 ^ 0x80;
            }
            repeat(&unsigned)
        }

        /// `acc + dot * sub`. A group's dot product of uniform weights fits 16 bits (32 * 8 * 127 =
        /// 32,512), and the upper halves of `subs` are zero there, so one instruction does both.
        #[inline]
        #[target_feature(enable = $features)]
        fn scale(uniform: bool, acc: Reg, dot: Reg, subs: Reg) -> Reg {
            if uniform { dot_i16(acc, dot, subs) } else { add(acc, mul(dot, subs)) }
        }

        /// Sub-scales for [`scale`].
        #[inline]
        #[target_feature(enable = $features)]
        fn load_subs(uniform: bool, subs: &[i8; PANEL]) -> Tile {
            let parts = subs.as_chunks::<{ PANEL / HALVES }>().0;
            let mut out = [set1(0); HALVES];
            for h in 0..HALVES {
                out[h] = widen(&parts[h]);
                if uniform {
                    out[h] = and(out[h], set1(0xffff));
                }
            }
            out
        }

        #[inline]
        #[target_feature(enable = $features)]
        fn int8<const P: usize, const M: usize>(
            codes: [&[u8]; P],
            rows: [Row<'_>; M],
        ) -> Sums<P, M> {
            let sign = set1(0x8080_8080u32 as i32);
            let n = codes[0].len() / TILE;
            let mut tiles: [&[[u8; TILE]]; P] = [&[]; P];
            for p in 0..P {
                tiles[p] = &codes[p].as_chunks().0[..n];
            }
            let mut quads: [&[[i8; QUAD]]; M] = [&[]; M];
            let mut acc = [[[set1(0); HALVES]; M]; P];
            for m in 0..M {
                quads[m] = &rows[m].codes.as_chunks().0[..n];
                for p in 0..P {
                    acc[p][m] = [set1(rows[m].sum().wrapping_mul(-128)); HALVES];
                }
            }
            for q in 0..n {
                for p in 0..P {
                    if M == 1 {
                        prefetch(&tiles[p][q], ahead(q * TILE, n * TILE, P));
                    }
                    let w = load_tile(&tiles[p][q]);
                    for h in 0..HALVES {
                        let w = xor(w[h], sign);
                        for m in 0..M {
                            acc[p][m][h] = dot(acc[p][m][h], w, broadcast(&quads[m][q]));
                        }
                    }
                }
            }
            to_sums(acc)
        }

        #[inline]
        #[target_feature(enable = $features)]
        fn int4<const P: usize, const M: usize>(
            codes: [&[u8]; P],
            subs: [&[[i8; PANEL]]; P],
            rows: [Row<'_>; M],
        ) -> Sums<P, M> {
            groups::<P, M, { QUADS / 2 }, false>(codes, subs, set1(0), rows)
        }

        #[inline]
        #[target_feature(enable = $features)]
        fn int8_grouped<const P: usize, const M: usize>(
            codes: [&[u8]; P],
            subs: [&[[i8; PANEL]]; P],
            rows: [Row<'_>; M],
        ) -> Sums<P, M> {
            groups::<P, M, QUADS, false>(codes, subs, set1(0), rows)
        }

        #[inline]
        #[target_feature(enable = $features)]
        fn codebook<const P: usize, const M: usize>(
            codes: [&[u8]; P],
            subs: [&[[i8; PANEL]]; P],
            levels: &[i8; 16],
            rows: [Row<'_>; M],
        ) -> Sums<P, M> {
            groups::<P, M, { QUADS / 2 }, true>(codes, subs, table(levels), rows)
        }

        #[inline]
        #[target_feature(enable = $features)]
        fn groups<const P: usize, const M: usize, const TILES: usize, const CODEBOOK: bool>(
            codes: [&[u8]; P],
            subs: [&[[i8; PANEL]]; P],
            levels: Reg,
            rows: [Row<'_>; M],
        ) -> Sums<P, M> {
            let uniform = is_uniform(TILES, CODEBOOK);
            let n = codes[0].len() / (TILES * TILE);
            let mut groups: [&[[[u8; TILE]; TILES]]; P] = [&[]; P];
            let mut scales: [&[[i8; PANEL]]; P] = [&[]; P];
            for p in 0..P {
                groups[p] = &codes[p].as_chunks().0.as_chunks().0[..n];
                scales[p] = &subs[p][..n];
            }
            let mut x: [&[[i8; GROUP]]; M] = [&[]; M];
            let mut sums: [&[i16]; M] = [&[]; M];
            for m in 0..M {
                x[m] = &rows[m].codes.as_chunks().0[..n];
                sums[m] = &rows[m].sums[..n];
            }
            let mut acc = [[[set1(0); HALVES]; M]; P];
            for g in 0..n {
                let mut start = [set1(0); M];
                for m in 0..M {
                    start[m] = set1(-zero(uniform) * i32::from(sums[m][g]));
                }
                for p in 0..P {
                    let tiles = &groups[p][g];
                    let subs = load_subs(uniform, &scales[p][g]);
                    if M == 1 {
                        for v in 0..TILES {
                            prefetch(&tiles[v], ahead(g * TILES * TILE, n * TILES * TILE, P));
                        }
                        // Four groups' sub-scales are a line.
                        if !cfg!(miri) && g % 4 == 0 {
                            _mm_prefetch::<_MM_HINT_T0>(
                                scales[p][g].as_ptr().wrapping_add(P * n * PANEL).cast(),
                            );
                        }
                    }
                    for h in 0..HALVES {
                        let mut dots = start;
                        for v in 0..QUADS / 2 {
                            let [low, high] = quad_pair::<TILES, CODEBOOK>(tiles, v, h, levels);
                            for m in 0..M {
                                let quads = x[m][g].as_chunks::<QUAD>().0;
                                dots[m] = dot(dots[m], low, broadcast(&quads[2 * v]));
                                dots[m] = dot(dots[m], high, broadcast(&quads[2 * v + 1]));
                            }
                        }
                        for m in 0..M {
                            acc[p][m][h] = scale(uniform, acc[p][m][h], dots[m], subs[h]);
                        }
                    }
                }
            }
            to_sums(acc)
        }

        /// Several rows of activations with each panel.
        #[inline]
        #[target_feature(enable = $features)]
        fn matmul_rows(
            w: &Matrix<'_>,
            x: &Activations<'_>,
            panels: Range<usize>,
            out: &mut [f32],
            stride: usize,
        ) {
            let levels = table(&w.levels());
            let mut sums = [[set1(0); HALVES]; ROWS];
            let mut out = Out { out, stride };
            for first in (0..x.rows()).step_by(ROWS) {
                let x = x.slice(first, ROWS.min(x.rows() - first));
                let sums = &mut sums[..x.rows()];
                let mut totals = [0; ROWS];
                for m in 0..x.rows() {
                    totals[m] = x.row(m).sum();
                }
                for p in panels.clone() {
                    let (codes, subs) = (w.panel_codes(p), w.panel_sub_scales(p));
                    match w.format() {
                        Format::Int8 => int8_rows(codes, &totals, &x, sums),
                        Format::Int8Grouped => {
                            group_rows::<QUADS, false>(codes, subs, levels, &x, sums)
                        }
                        Format::Int4 | Format::Int4Offset => {
                            group_rows::<{ QUADS / 2 }, false>(codes, subs, levels, &x, sums)
                        }
                        Format::Int4Codebook => {
                            group_rows::<{ QUADS / 2 }, true>(codes, subs, levels, &x, sums)
                        }
                    }
                    for m in 0..sums.len() {
                        let out = out.place(first + m, p - panels.start, w.panel_rows(p));
                        gemm::store(&to_array(sums[m]), w.panel_row_scales(p), x.scale(m), out);
                    }
                }
            }
        }

        #[inline]
        #[target_feature(enable = $features)]
        fn int8_rows(codes: &[u8], totals: &[i32; ROWS], x: &Activations<'_>, sums: &mut [Tile]) {
            let sign = set1(0x8080_8080u32 as i32);
            for m in 0..sums.len() {
                sums[m] = [set1(totals[m].wrapping_mul(-128)); HALVES];
            }
            let (eights, rest) = codes.as_chunks::<TILE>().0.as_chunks::<QUADS>();
            for i in 0..eights.len() {
                for h in 0..HALVES {
                    let mut w = [set1(0); QUADS];
                    for q in 0..QUADS {
                        w[q] = xor(load_tile(&eights[i][q])[h], sign);
                    }
                    let (many, few) = sums.as_chunks_mut::<TOGETHER>();
                    for m in 0..many.len() {
                        int8_add(&w, x, TOGETHER * m, i, h, &mut many[m]);
                    }
                    for m in 0..few.len() {
                        int8_add(
                            &w,
                            x,
                            TOGETHER * many.len() + m,
                            i,
                            h,
                            core::array::from_mut(&mut few[m]),
                        );
                    }
                }
            }
            for q in 0..rest.len() {
                for h in 0..HALVES {
                    let w = xor(load_tile(&rest[q])[h], sign);
                    for m in 0..sums.len() {
                        let quads = x.group(m, eights.len()).as_chunks::<QUAD>().0;
                        sums[m][h] = dot(sums[m][h], w, broadcast(&quads[q]));
                    }
                }
            }
        }

        /// Adds to the sums of `M` rows from `first` the products of group `g` with register `h` of
        /// its eight tiles.
        #[inline]
        #[target_feature(enable = $features)]
        fn int8_add<const M: usize>(
            w: &[Reg; QUADS],
            x: &Activations<'_>,
            first: usize,
            g: usize,
            h: usize,
            sums: &mut [Tile; M],
        ) {
            let (quads, mut dots) = (quads::<M>(x, first, g), [set1(0); M]);
            for m in 0..M {
                dots[m] = sums[m][h];
            }
            for q in 0..QUADS {
                for m in 0..M {
                    dots[m] = dot(dots[m], w[q], broadcast(&quads[m][q]));
                }
            }
            for m in 0..M {
                sums[m][h] = dots[m];
            }
        }

        /// Group `g` of `M` rows from `first`.
        #[inline]
        #[target_feature(enable = $features)]
        fn quads<'a, const M: usize>(
            x: &Activations<'a>,
            first: usize,
            g: usize,
        ) -> [&'a [[i8; QUAD]]; M] {
            let mut out: [&[[i8; QUAD]]; M] = [&[]; M];
            for m in 0..M {
                out[m] = x.group(first + m, g).as_chunks().0;
            }
            out
        }

        #[inline]
        #[target_feature(enable = $features)]
        fn group_add<const M: usize>(
            (w, subs, uniform): (&[[Reg; 2]; QUADS / 2], Reg, bool),
            x: &Activations<'_>,
            first: usize,
            g: usize,
            h: usize,
            sums: &mut [Tile; M],
        ) {
            let (quads, mut dots) = (quads::<M>(x, first, g), [set1(0); M]);
            for m in 0..M {
                dots[m] = set1(-zero(uniform) * i32::from(x.sums(first + m)[g]));
            }
            for q in 0..QUADS {
                for m in 0..M {
                    dots[m] = dot(dots[m], w[q / 2][q % 2], broadcast(&quads[m][q]));
                }
            }
            for m in 0..M {
                sums[m][h] = scale(uniform, sums[m][h], dots[m], subs);
            }
        }

        #[inline]
        #[target_feature(enable = $features)]
        fn group_rows<const TILES: usize, const CODEBOOK: bool>(
            codes: &[u8],
            subs: &[[i8; PANEL]],
            levels: Reg,
            x: &Activations<'_>,
            sums: &mut [Tile],
        ) {
            sums.fill([set1(0); HALVES]);
            let uniform = is_uniform(TILES, CODEBOOK);
            let groups = codes.as_chunks::<TILE>().0.as_chunks::<TILES>().0;
            for g in 0..groups.len() {
                let tiles = &groups[g];
                let subs = load_subs(uniform, &subs[g]);
                for h in 0..HALVES {
                    let mut w = [[set1(0); 2]; QUADS / 2];
                    for v in 0..QUADS / 2 {
                        w[v] = quad_pair::<TILES, CODEBOOK>(tiles, v, h, levels);
                    }
                    let (many, few) = sums.as_chunks_mut::<TOGETHER>();
                    for m in 0..many.len() {
                        group_add((&w, subs[h], uniform), x, TOGETHER * m, g, h, &mut many[m]);
                    }
                    for m in 0..few.len() {
                        let sums = core::array::from_mut(&mut few[m]);
                        group_add((&w, subs[h], uniform), x, TOGETHER * many.len() + m, g, h, sums);
                    }
                }
            }
        }
    };
}

pub(super) use kernels;
