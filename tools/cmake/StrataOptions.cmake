# Compiler options shared by every target, and how a library or test of ours is declared.

add_library(strata_options INTERFACE)
# -Wrestrict: false alarms on std::string in GCC 12 (GCC bug 105651), which clang does not know; nor
# does clang vectorise every loop that is marked for it, at the sanitizers' -O1.
set(_compile -Wall -Wextra -Werror -Wno-missing-field-initializers -Wno-restrict
    $<$<CXX_COMPILER_ID:Clang>:-Wno-unknown-warning-option>
    $<$<CXX_COMPILER_ID:Clang>:-Wno-pass-failed>)
if(STRATA_NATIVE)
  list(APPEND _compile -march=native)
endif()
if(STRATA_SANITIZE)
  list(APPEND _compile -fsanitize=${STRATA_SANITIZE} -fno-sanitize-recover=all
       -fno-omit-frame-pointer)
  target_link_options(strata_options INTERFACE -fsanitize=${STRATA_SANITIZE})
endif()
target_compile_options(strata_options INTERFACE "$<$<COMPILE_LANGUAGE:CXX>:${_compile}>")
target_compile_definitions(strata_options
                           INTERFACE $<$<AND:$<CONFIG:Release>,$<COMPILE_LANGUAGE:CXX>>:_FORTIFY_SOURCE=2>)
target_include_directories(strata_options INTERFACE ${CMAKE_SOURCE_DIR}/src ${CMAKE_SOURCE_DIR})

# strata_library(NAME SOURCES... [LINK libs...]): one static library a folder.
function(strata_library name)
  cmake_parse_arguments(PARSE_ARGV 1 arg "" "" "SOURCES;LINK;PRIVATE_LINK")
  if(NOT arg_SOURCES)
    add_library(${name} INTERFACE)
    target_link_libraries(${name} INTERFACE strata_options ${arg_LINK})
    return()
  endif()
  add_library(${name} STATIC ${arg_SOURCES})
  target_link_libraries(${name} PUBLIC strata_options ${arg_LINK} PRIVATE ${arg_PRIVATE_LINK})
endfunction()

# strata_test(NAME SOURCES... [LINK libs...] [RANKS n...]): one GoogleTest program a folder or theme.
# With RANKS the same program runs under mpirun with each count. Label `store` marks what parses or stores
# (run under sanitizers too). USES_BINARY: the test starts the strata executable (STRATA_BINARY).
function(strata_test name)
  cmake_parse_arguments(PARSE_ARGV 1 arg "USES_BINARY" "" "SOURCES;LINK;RANKS;LABELS")
  add_executable(${name} ${arg_SOURCES})
  target_link_libraries(${name} PRIVATE ${arg_LINK} GTest::gtest_main)
  target_compile_definitions(${name} PRIVATE STRATA_SOURCE_DIR="${CMAKE_SOURCE_DIR}"
                                             STRATA_BINARY="$<TARGET_FILE:strata>")
  if(arg_RANKS)
    foreach(ranks IN LISTS arg_RANKS)
      add_test(NAME ${name}.np${ranks}
               COMMAND ${CMAKE_SOURCE_DIR}/tools/mpirun-test ${ranks} $<TARGET_FILE:${name}>)
    endforeach()
  else()
    add_test(NAME ${name} COMMAND ${name})
  endif()
  if(arg_USES_BINARY)
    add_dependencies(${name} strata)
  endif()
  foreach(label IN LISTS arg_LABELS)
    if(NOT TARGET ${label}_tests)
      add_custom_target(${label}_tests)
    endif()
    add_dependencies(${label}_tests ${name})
  endforeach()
  if(arg_LABELS)
    get_property(all DIRECTORY PROPERTY TESTS)
    foreach(test IN LISTS all)
      if(test STREQUAL name OR test MATCHES "^${name}[.]np")
        set_property(TEST ${test} PROPERTY LABELS ${arg_LABELS})
      endif()
    endforeach()
  endif()
endfunction()
