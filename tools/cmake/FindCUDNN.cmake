# Finds cuDNN 9 and the headers of its C++ frontend: in the CUDA toolkit, in CUDNN_ROOT, or in the
# wheels nvidia-cudnn-cu13 and nvidia-cudnn-frontend below CUDA_WHEELS (a site-packages folder).
# Result: targets CUDNN::cudnn (one library that loads the others when asked) and CUDNN::frontend.

file(GLOB _cudnn_wheel ${CUDA_WHEELS}/nvidia/cudnn)
find_path(CUDNN_INCLUDE cudnn_graph.h
          HINTS ${CUDNN_ROOT} ${_cudnn_wheel} ${CUDAToolkit_INCLUDE_DIRS} PATH_SUFFIXES include)
find_library(CUDNN_LIBRARY NAMES cudnn libcudnn.so.9
             HINTS ${CUDNN_ROOT} ${_cudnn_wheel} ${CUDAToolkit_LIBRARY_DIR} PATH_SUFFIXES lib lib64)
find_path(CUDNN_FRONTEND_INCLUDE cudnn_frontend.h
          HINTS ${CUDNN_FRONTEND_ROOT} ${CUDA_WHEELS} ${CUDNN_ROOT} PATH_SUFFIXES include)
if(CUDNN_INCLUDE)
  file(STRINGS ${CUDNN_INCLUDE}/cudnn_version.h _cudnn_version
       REGEX "#define CUDNN_(MAJOR|MINOR|PATCHLEVEL) [0-9]+")
  string(REGEX REPLACE "[^0-9;]" "" _cudnn_version "${_cudnn_version}")
  string(REPLACE ";" "." CUDNN_VERSION "${_cudnn_version}")
endif()

include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(CUDNN
  REQUIRED_VARS CUDNN_LIBRARY CUDNN_INCLUDE CUDNN_FRONTEND_INCLUDE VERSION_VAR CUDNN_VERSION)
if(CUDNN_FOUND AND NOT TARGET CUDNN::cudnn)
  add_library(CUDNN::cudnn UNKNOWN IMPORTED)
  set_target_properties(CUDNN::cudnn PROPERTIES IMPORTED_LOCATION ${CUDNN_LIBRARY}
                                                INTERFACE_INCLUDE_DIRECTORIES ${CUDNN_INCLUDE})
  add_library(CUDNN::frontend INTERFACE IMPORTED)
  set_target_properties(CUDNN::frontend PROPERTIES
                        INTERFACE_INCLUDE_DIRECTORIES ${CUDNN_FRONTEND_INCLUDE}
                        INTERFACE_LINK_LIBRARIES CUDNN::cudnn)
endif()
