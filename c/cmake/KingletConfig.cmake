# find_package(Kinglet) gives the target kinglet::kinglet: header and static library.
#
#   KINGLET_CPU       which library: cortex-m4, cortex-m55, aarch64, x86_64, ... (c/build --help).
#                     Without it, that of CMAKE_SYSTEM_PROCESSOR.
#   KINGLET_DECODERS  ON: the smaller library for causal decoders alone.

if(NOT KINGLET_CPU)
  set(KINGLET_CPU "${CMAKE_SYSTEM_PROCESSOR}")
endif()
set(_kinglet_name "${KINGLET_CPU}")
if(KINGLET_DECODERS)
  string(APPEND _kinglet_name "-decoders")
endif()
get_filename_component(_kinglet_prefix "${CMAKE_CURRENT_LIST_DIR}/../../.." ABSOLUTE)
set(_kinglet_library "${_kinglet_prefix}/lib/${_kinglet_name}/libkinglet.a")

if(NOT EXISTS "${_kinglet_library}")
  set(Kinglet_FOUND FALSE)
  set(Kinglet_NOT_FOUND_MESSAGE
    "There is no ${_kinglet_library}. Set KINGLET_CPU, or build it: c/build ${_kinglet_name}")
  return()
endif()

if(NOT TARGET kinglet::kinglet)
  add_library(kinglet::kinglet STATIC IMPORTED)
  set_target_properties(kinglet::kinglet PROPERTIES
    IMPORTED_LOCATION "${_kinglet_library}"
    INTERFACE_INCLUDE_DIRECTORIES "${_kinglet_prefix}/include")
  # With an operating system instruction sets are detected by Rust's standard library.
  if(CMAKE_SYSTEM_NAME STREQUAL "Linux")
    set_target_properties(kinglet::kinglet PROPERTIES INTERFACE_LINK_LIBRARIES "pthread;dl;m")
  endif()
endif()
