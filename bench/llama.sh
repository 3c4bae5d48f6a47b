# llama.cpp in a Python environment of its own, for the scripts of this folder, which source this file.
#
# `llama_python WORK JOBS` makes WORK/python on the first run and sets `python` to its interpreter.
# llama-cpp-python is built from source for this processor, with clang if there is one: gcc 12
# drops stores of AMX's tile configuration, and llama.cpp crashes at the first prompt.

# Prints the options of CMake that name what this processor has.
llama_options() {
  if ! grep -qw avx512_vnni /proc/cpuinfo; then
    echo -DGGML_NATIVE=ON
    return
  fi
  # By name: a compiler that asks the processor itself may miss AMX.
  local name options=(-DGGML_NATIVE=OFF)
  local names=(avx:AVX avx2:AVX2 bmi2:BMI2 fma:FMA f16c:F16C avx_vnni:AVX_VNNI avx512f:AVX512
    avx512vbmi:AVX512_VBMI avx512_vnni:AVX512_VNNI avx512_bf16:AVX512_BF16 amx_tile:AMX_TILE
    amx_int8:AMX_INT8 amx_bf16:AMX_BF16)
  for name in "${names[@]}"; do
    if grep -qw "${name%:*}" /proc/cpuinfo; then options+=("-DGGML_${name#*:}=ON"); fi
  done
  echo "${options[*]}"
}

llama_python() {
  local work=$1 jobs=$2
  python=$work/python/bin/python
  if "$python" -c 'import llama_cpp, gguf, numpy, safetensors' 2>/dev/null; then return; fi
  mkdir -p "$work"
  python3 -m venv "$work/python"
  if command -v clang++ >/dev/null; then export CC=clang CXX=clang++; fi
  echo "building llama.cpp; this takes some minutes" >&2
  CMAKE_BUILD_PARALLEL_LEVEL=$jobs CMAKE_ARGS=$(llama_options) \
    nice -n 10 "$python" -m pip install --quiet --no-binary llama-cpp-python \
    'llama-cpp-python>=0.3,<0.4' gguf numpy safetensors
}
