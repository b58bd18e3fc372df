# Finds a site's Kokkos (its own config file), or Debian 12's libtrilinos-kokkos-dev, whose config file
# names an include folder that does not exist. Result: target strata_kokkos, headers as SYSTEM.
# A Kokkos built for a GPU is refused: its headers cannot be compiled by the host compiler alone.

find_package(Kokkos CONFIG QUIET)
find_path(Kokkos_CORE_INCLUDE Kokkos_Core.hpp
          HINTS ${Kokkos_DIR}/../../../include PATH_SUFFIXES kokkos trilinos)
find_library(Kokkos_CORE_LIBRARY NAMES kokkoscore trilinos_kokkoscore HINTS ${Kokkos_DIR}/../..)
find_path(Kokkos_CONFIG_INCLUDE KokkosCore_config.h HINTS ${Kokkos_CORE_INCLUDE} PATH_SUFFIXES trilinos)

include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(Kokkos REQUIRED_VARS Kokkos_CORE_LIBRARY Kokkos_CORE_INCLUDE
                                                       Kokkos_CONFIG_INCLUDE)
if(Kokkos_FOUND AND NOT TARGET strata_kokkos)
  file(STRINGS ${Kokkos_CONFIG_INCLUDE}/KokkosCore_config.h _gpu
       REGEX "#define KOKKOS_ENABLE_(CUDA|HIP|SYCL)( |$)")
  if(_gpu)
    message(FATAL_ERROR "Kokkos at ${Kokkos_CONFIG_INCLUDE} is built for a GPU; the host backend needs "
                        "one with Serial or OpenMP only: set Kokkos_DIR to it")
  endif()
  find_package(Threads REQUIRED)
  add_library(strata_kokkos INTERFACE)
  target_include_directories(strata_kokkos SYSTEM INTERFACE ${Kokkos_CORE_INCLUDE}
                                                            ${Kokkos_CONFIG_INCLUDE})
  target_link_libraries(strata_kokkos INTERFACE ${Kokkos_CORE_LIBRARY} ${CMAKE_DL_LIBS}
                                                Threads::Threads)
endif()
