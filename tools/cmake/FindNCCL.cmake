# Finds NCCL: in the CUDA toolkit, in NCCL_ROOT, in the system, or in the wheel nvidia-nccl-cu13 below
# CUDA_WHEELS (a site-packages folder). Result: target NCCL::nccl.

file(GLOB _nccl_wheel ${CUDA_WHEELS}/nvidia/nccl)
find_path(NCCL_INCLUDE nccl.h
          HINTS ${NCCL_ROOT} ${_nccl_wheel} ${CUDAToolkit_INCLUDE_DIRS} PATH_SUFFIXES include)
find_library(NCCL_LIBRARY NAMES nccl libnccl.so.2
             HINTS ${NCCL_ROOT} ${_nccl_wheel} ${CUDAToolkit_LIBRARY_DIR} PATH_SUFFIXES lib lib64)

include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(NCCL REQUIRED_VARS NCCL_LIBRARY NCCL_INCLUDE)
if(NCCL_FOUND AND NOT TARGET NCCL::nccl)
  add_library(NCCL::nccl UNKNOWN IMPORTED)
  set_target_properties(NCCL::nccl PROPERTIES IMPORTED_LOCATION ${NCCL_LIBRARY}
                                              INTERFACE_INCLUDE_DIRECTORIES ${NCCL_INCLUDE})
endif()
