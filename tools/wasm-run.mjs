// Runs a WebAssembly program with WASI under Node: the runner of `cargo test --target wasm32-wasip1`.
//
// Node 18 and 20 have relaxed SIMD behind a flag, with a baseline compiler that gets its dot product wrong (V8 before 11.4 doubles it
// where sum and result share a register); there the flag is set, and the baseline compiler off. A program that this Node cannot run
// for want of SIMD is skipped with a message, not failed.

import { readFile } from 'node:fs/promises';
import { setFlagsFromString } from 'node:v8';

// That WASI is experimental.
process.removeAllListeners('warning');
const { WASI } = await import('node:wasi');

/** Whether a function of one `i32x4.relaxed_dot_i8x16_i7x16_add_s` is valid. */
function relaxed() {
  const zero = [0xfd, 0x0c, ...new Array(16).fill(0)];
  const body = [0, ...zero, ...zero, ...zero, 0xfd, 0x93, 0x02, 0x0b];
  const header = [0, 0x61, 0x73, 0x6d, 1, 0, 0, 0, 1, 5, 1, 0x60, 0, 1, 0x7b, 3, 2, 1, 0];
  return WebAssembly.validate(new Uint8Array([...header, 10, body.length + 2, 1, body.length, ...body]));
}

if (!relaxed()) {
  setFlagsFromString('--experimental-wasm-relaxed-simd');
  setFlagsFromString('--no-liftoff');
}

const [, , program, ...args] = process.argv;
const bytes = await readFile(program);
if (!WebAssembly.validate(bytes)) {
  const why = await WebAssembly.compile(bytes).then(() => 'valid after all', (error) => error.message);
  if (relaxed() || !/simd|0xfd/i.test(why)) throw new Error(`${program}: ${why}`);
  console.log(`skipped: Node ${process.version} has no relaxed SIMD (${why})`);
  process.exit(0);
}
const wasi = new WASI({
  version: 'preview1',
  args: [program, ...args],
  env: process.env,
  preopens: { '/': '/' },
  returnOnExit: true,
});
const module = await WebAssembly.compile(bytes);
const instance = await WebAssembly.instantiate(module, { wasi_snapshot_preview1: wasi.wasiImport });
process.exitCode = wasi.start(instance);
