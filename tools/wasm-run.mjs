// Runs a WebAssembly program with WASI under Node: the runner of `cargo test --target wasm32-wasip1`.
//
// A program that uses an extension which this Node does not have is skipped with a message, not failed: `cargo test` has nothing
// better to offer. Relaxed SIMD is behind a flag up to Node 20, which is set here.

import { readFile } from 'node:fs/promises';
import { setFlagsFromString } from 'node:v8';

process.removeAllListeners('warning');
const { WASI } = await import('node:wasi');
try {
  setFlagsFromString('--experimental-wasm-relaxed-simd');
} catch {}

const [, , program, ...args] = process.argv;
const bytes = await readFile(program);
if (!WebAssembly.validate(bytes)) {
  // `compile` says why; only what names SIMD may be skipped.
  const why = await WebAssembly.compile(bytes).then(() => '', (error) => error.message);
  if (!/simd|opcode 0xfd/i.test(why)) throw new Error(`${program}: ${why}`);
  console.log(`skipped: Node ${process.version} has no relaxed SIMD (${why})`);
  process.exit(0);
}
const wasi = new WASI({ version: 'preview1', args: [program, ...args], env: process.env, preopens: { '/': '/' }, returnOnExit: true });
const instance = await WebAssembly.instantiate(await WebAssembly.compile(bytes), { wasi_snapshot_preview1: wasi.wasiImport });
process.exitCode = wasi.start(instance);
