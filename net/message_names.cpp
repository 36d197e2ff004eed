// The enumerations of net/message.h in words.
#include "net/message.h"

namespace offramp {

const char* tier_name(Tier tier) {
  switch (tier) {
    case Tier::kDevice:
      return "device";
    case Tier::kEdge:
      return "edge";
    case Tier::kCloud:
      return "cloud";
  }
  return "unknown";
}

const char* reason_name(Reason reason) {
  switch (reason) {
    case Reason::kNone:
      return "ok";
    case Reason::kNoNext:
      return "no next tier";
    case Reason::kDisconnected:
      return "disconnected";
    case Reason::kLate:
      return "late";
    case Reason::kPeerLost:
      return "peer lost";
    case Reason::kOverloaded:
      return "overloaded";
    case Reason::kDraining:
      return "draining";
    case Reason::kModelMismatch:
      return "model mismatch";
    case Reason::kExpired:
      return "expired";
    case Reason::kRefused:
      return "refused";
  }
  return "unknown";
}

const char* fault_name(FaultCode code) {
  switch (code) {
    case FaultCode::kVersion:
      return "version";
    case FaultCode::kModelMismatch:
      return "model mismatch";
    case FaultCode::kNoSession:
      return "no session";
    case FaultCode::kOverloaded:
      return "overloaded";
    case FaultCode::kDraining:
      return "draining";
    case FaultCode::kExpired:
      return "expired";
    case FaultCode::kBadTensor:
      return "bad tensor";
    case FaultCode::kNoAnswer:
      return "no answer";
  }
  return "unknown";
}

Reason reason_of(FaultCode code) {
  switch (code) {
    case FaultCode::kModelMismatch:
      return Reason::kModelMismatch;
    case FaultCode::kOverloaded:
      return Reason::kOverloaded;
    case FaultCode::kDraining:
      return Reason::kDraining;
    case FaultCode::kExpired:
      return Reason::kExpired;
    case FaultCode::kVersion:
    case FaultCode::kNoSession:
    case FaultCode::kBadTensor:
    case FaultCode::kNoAnswer:
      break;
  }
  return Reason::kRefused;
}

const char* dtype_name(DType dtype) {
  switch (dtype) {
    case DType::kNone:
      return "nothing";
    case DType::kF32:
      return "f32";
    case DType::kF16:
      return "f16";
    case DType::kU8:
      return "u8";
    case DType::kU8PerChannel:
      return "u8c";
    case DType::kPixels:
      return "pixels";
  }
  return "unknown";
}

const char* malformed_name(Malformed reason) {
  switch (reason) {
    case Malformed::kFrameCount:
      return "frame count";
    case Malformed::kTruncated:
      return "truncated header";
    case Malformed::kMagic:
      return "magic";
    case Malformed::kVersion:
      return "version";
    case Malformed::kHeaderLength:
      return "header length";
    case Malformed::kType:
      return "type";
    case Malformed::kFlags:
      return "flags";
    case Malformed::kItem:
      return "item";
    case Malformed::kUnknownItem:
      return "unknown item";
    case Malformed::kField:
      return "field";
    case Malformed::kPayload:
      return "payload";
    case Malformed::kChecksum:
      return "checksum";
  }
  return "unknown";
}

}  // namespace offramp
