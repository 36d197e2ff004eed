// What systemd hears of a service of Type=notify: sd_notify(3).
#pragma once

#include <string>

namespace offramp::cli {

/// "READY=1", "RELOADING=1" or "STOPPING=1", and lines such as "STATUS=..." after it. Does nothing
/// where no service manager asked for it (NOTIFY_SOCKET), or where it does not listen.
void tell_service_manager(const std::string& state);

}  // namespace offramp::cli
