# Debian's packages: cmake --build DIR && (cd DIR && cpack -G DEB), on Debian itself.
#
#   offramp               program, weights, samples, manual, systemd unit, /etc/offramp
#   libofframp-client0    the library
#   libofframp-client-dev its headers, for CMake and pkg-config
#
# Files that only packages have are not installed by a plain `cmake --install`.

set(here ${CMAKE_CURRENT_LIST_DIR})
set(made ${CMAKE_BINARY_DIR}/package)
set(libdir lib/${CMAKE_LIBRARY_ARCHITECTURE})
set(library libofframp-client${PROJECT_VERSION_MAJOR})
set(OFFRAMP_MAINTAINER "the offramp authors <offramp@example.org>" CACHE STRING
  "who answers for the packages, as in their control files: Name <address>")

function(offramp_deb_install component)
  install(${ARGN} COMPONENT ${component} EXCLUDE_FROM_ALL)
endfunction()

# Times in files are SOURCE_DATE_EPOCH where that is set.
string(TIMESTAMP date "%Y-%m-%d" UTC)
string(TIMESTAMP changed "%a, %d %b %Y %H:%M:%S +0000" UTC)
add_custom_command(OUTPUT ${made}/offramp.1.gz ${made}/offramp.bash
  COMMAND offramp manual --date ${date} > ${made}/offramp.1
  COMMAND gzip -9nf ${made}/offramp.1
  COMMAND offramp manual --bash-completion > ${made}/offramp.bash
  DEPENDS offramp VERBATIM)
add_custom_target(offramp_manual ALL DEPENDS ${made}/offramp.1.gz ${made}/offramp.bash)

offramp_deb_install(service FILES ${made}/offramp.1.gz DESTINATION share/man/man1)
offramp_deb_install(service FILES ${made}/offramp.bash RENAME offramp
  DESTINATION share/bash-completion/completions)
offramp_deb_install(service FILES ${here}/offramp-node@.service DESTINATION /lib/systemd/system)
offramp_deb_install(service FILES ${here}/edge.toml ${here}/cloud.toml DESTINATION /etc/offramp)

# The library once more, where Debian wants it: in the folder of its architecture.
install(TARGETS offramp_client EXPORT offramp_deb
  LIBRARY DESTINATION ${libdir} COMPONENT library NAMELINK_COMPONENT development EXCLUDE_FROM_ALL)
offramp_deb_install(development EXPORT offramp_deb NAMESPACE offramp:: FILE offramp-config.cmake
  DESTINATION ${libdir}/cmake/offramp)
offramp_deb_install(development FILES ${CMAKE_BINARY_DIR}/offramp-config-version.cmake
  DESTINATION ${libdir}/cmake/offramp)
offramp_deb_install(development FILES
  ${PROJECT_SOURCE_DIR}/net/client.h ${PROJECT_SOURCE_DIR}/net/client_c.h
  DESTINATION include/offramp)
block()
  set(CMAKE_INSTALL_PREFIX /usr)
  set(CMAKE_INSTALL_LIBDIR ${libdir})
  set(CMAKE_INSTALL_INCLUDEDIR include)
  configure_file(${PROJECT_SOURCE_DIR}/net/offramp-client.pc.in ${made}/offramp-client.pc @ONLY)
endblock()
offramp_deb_install(development FILES ${made}/offramp-client.pc DESTINATION ${libdir}/pkgconfig)
offramp_deb_install(development FILES
  ${PROJECT_SOURCE_DIR}/tools/examples/classify.c ${PROJECT_SOURCE_DIR}/tools/examples/classify.cpp
  ${PROJECT_SOURCE_DIR}/tools/examples/CMakeLists.txt
  DESTINATION share/doc/libofframp-client-dev/examples)

# What every package has in its folder of documents.
file(READ ${PROJECT_SOURCE_DIR}/LICENSE licence)
string(REGEX MATCH "Copyright[^\n]*" copyright "${licence}")
string(REGEX REPLACE "^.*\nPermission" "Permission" licence "${licence}")
string(STRIP "${licence}" licence)
string(REPLACE "\n\n" "\n.\n" licence "${licence}")
string(REPLACE "\n" "\n " licence "${licence}")
configure_file(${here}/copyright.in ${made}/copyright @ONLY)
configure_file(${here}/changelog.in ${made}/changelog.Debian @ONLY)
execute_process(COMMAND gzip -9nkf ${made}/changelog.Debian COMMAND_ERROR_IS_FATAL ANY)
foreach(each service:offramp library:${library} development:libofframp-client-dev)
  string(REPLACE ":" ";" each ${each})
  list(GET each 0 component)
  list(GET each 1 package)
  offramp_deb_install(${component} FILES ${made}/copyright ${made}/changelog.Debian.gz
    DESTINATION share/doc/${package})
endforeach()

set(CPACK_GENERATOR DEB)
set(CPACK_COMPONENTS_ALL program service library development)
set(CPACK_COMPONENT_PROGRAM_GROUP offramp)
set(CPACK_COMPONENT_SERVICE_GROUP offramp)
set(CPACK_DEB_COMPONENT_INSTALL ON)
# With it, what goes to /etc and /lib goes below the package's root.
set(CPACK_SET_DESTDIR ON)
set(CPACK_INSTALL_PREFIX /usr)
set(CPACK_STRIP_FILES ON)
set(CPACK_INSTALL_DEFAULT_DIRECTORY_PERMISSIONS
  OWNER_READ OWNER_WRITE OWNER_EXECUTE GROUP_READ GROUP_EXECUTE WORLD_READ WORLD_EXECUTE)
set(CPACK_PACKAGE_NAME offramp)
set(CPACK_PACKAGE_VERSION ${PROJECT_VERSION})
set(CPACK_PACKAGE_CONTACT "${OFFRAMP_MAINTAINER}")
set(CPACK_DEBIAN_FILE_NAME DEB-DEFAULT)
set(CPACK_DEBIAN_PACKAGE_RELEASE 1)
set(CPACK_DEBIAN_PACKAGE_CONTROL_STRICT_PERMISSION ON)

set(about "An early-exit network is run across a device, an edge server and a cloud
server. Each tier owns one stretch of it and answers at once when its exit is
sure enough; otherwise it hands on to the next tier over encrypted links.
")
set(CPACK_DEBIAN_OFFRAMP_PACKAGE_NAME offramp)
set(CPACK_DEBIAN_OFFRAMP_PACKAGE_SECTION science)
set(CPACK_DEBIAN_OFFRAMP_PACKAGE_DEPENDS adduser)
set(CPACK_DEBIAN_OFFRAMP_PACKAGE_SHLIBDEPS ON)
set(CPACK_DEBIAN_OFFRAMP_DESCRIPTION "early-exit image classification across device, edge and cloud
${about}
This package has the program, a model trained on CIFAR-10, and a service for
systemd that runs nodes with the configuration in /etc/offramp.")
set(CPACK_DEBIAN_OFFRAMP_PACKAGE_CONTROL_EXTRA
  ${here}/conffiles ${here}/postinst ${here}/prerm ${here}/postrm)

set(CPACK_DEBIAN_LIBRARY_PACKAGE_NAME ${library})
set(CPACK_DEBIAN_LIBRARY_PACKAGE_SECTION libs)
set(CPACK_DEBIAN_LIBRARY_PACKAGE_SHLIBDEPS ON)
set(CPACK_DEBIAN_PACKAGE_GENERATE_SHLIBS ON)
set(CPACK_DEBIAN_PACKAGE_GENERATE_SHLIBS_POLICY ">=")
set(CPACK_DEBIAN_LIBRARY_DESCRIPTION "device of an early-exit network, as a library
${about}
This package has the shared library that programs are the device with.")
set(CPACK_DEBIAN_LIBRARY_PACKAGE_CONTROL_EXTRA ${here}/triggers)

set(CPACK_DEBIAN_DEVELOPMENT_PACKAGE_NAME libofframp-client-dev)
set(CPACK_DEBIAN_DEVELOPMENT_PACKAGE_SECTION libdevel)
set(CPACK_DEBIAN_DEVELOPMENT_PACKAGE_DEPENDS
  "${library} (= ${PROJECT_VERSION}-${CPACK_DEBIAN_PACKAGE_RELEASE})")
set(CPACK_DEBIAN_DEVELOPMENT_DESCRIPTION "device of an early-exit network, files for development
${about}
This package has the headers for C++ and C, and what CMake and pkg-config read.")
include(CPack)
