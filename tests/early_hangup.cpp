// Loaded before libzmq: a SIGHUP arrives when a node asks for CURVE, that is before its model is
// loaded.
#include <signal.h>

extern "C" int zmq_has(const char*) {
  raise(SIGHUP);
  return 1;
}
