# The CUDA language and libraries of preset `cuda`. The compiler is $CUDACXX, nvcc on the PATH, or the one
# of the wheels below CUDA_WHEELS. Result: target strata_cuda.

if(NOT CMAKE_CUDA_COMPILER AND NOT DEFINED ENV{CUDACXX})
  find_program(_nvcc nvcc HINTS ${CUDA_WHEELS}/nvidia/cu13/bin /usr/local/cuda/bin)
  if(NOT _nvcc)
    message(FATAL_ERROR "preset cuda: no nvcc; tools/setup --cuda installs one, or set CUDACXX")
  endif()
  set(CMAKE_CUDA_COMPILER ${_nvcc})
endif()
set(CMAKE_CUDA_ARCHITECTURES 80-real 90-real CACHE STRING "A100 and H100; one binary")
set(CMAKE_CUDA_RUNTIME_LIBRARY Shared)
enable_language(CUDA)
if(CMAKE_CUDA_COMPILER_VERSION VERSION_LESS 13.0)
  message(FATAL_ERROR "preset cuda: nvcc ${CMAKE_CUDA_COMPILER_VERSION}; 13.0 or newer is needed")
endif()
# CMake before 3.26 does not know how nvcc 13 is told of C++20.
if(NOT CMAKE_CUDA20_STANDARD_COMPILE_OPTION)
  set(CMAKE_CUDA20_STANDARD_COMPILE_OPTION -std=c++20)
  set(CMAKE_CUDA20_EXTENSION_COMPILE_OPTION -std=c++20)
endif()
set(CMAKE_CUDA_STANDARD 20)
# Where 3.25 is asked for, the module of CMake 3.25 sets a property of CUDA::nvToolsExt, which CUDA 13 no
# longer has.
set(_asked_for ${CMAKE_MINIMUM_REQUIRED_VERSION})
set(CMAKE_MINIMUM_REQUIRED_VERSION 3.24)
find_package(CUDAToolkit REQUIRED)
set(CMAKE_MINIMUM_REQUIRED_VERSION ${_asked_for})
find_package(CUDNN 9.8 MODULE REQUIRED)
find_package(NCCL MODULE REQUIRED)

# FMT_USE_CONSTEXPR: fmt 9 switches its constexpr off for nvcc and then does not compile.
set(_cuda --expt-relaxed-constexpr --compress-mode=size -Werror=all-warnings
          -Xcompiler=-Wall,-Wextra,-Wno-missing-field-initializers)
add_library(strata_cuda INTERFACE)
target_compile_options(strata_cuda INTERFACE "$<$<COMPILE_LANGUAGE:CUDA>:${_cuda}>")
target_compile_definitions(strata_cuda INTERFACE $<$<COMPILE_LANGUAGE:CUDA>:FMT_USE_CONSTEXPR=1>)
target_link_libraries(strata_cuda INTERFACE CUDA::cudart CUDA::cublasLt CUDA::nvrtc CUDNN::cudnn
                                            NCCL::nccl)

# A program that tools/gpu-check takes along: it and its libraries find theirs in lib/ beside it. Target
# gpu_check is all of them.
add_custom_target(gpu_check)
function(strata_bundled target)
  add_dependencies(gpu_check ${target})
  set_target_properties(${target} PROPERTIES BUILD_RPATH "$ORIGIN/lib")
  target_link_options(${target} PRIVATE LINKER:--disable-new-dtags)
endfunction()
