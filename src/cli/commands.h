// The commands of `caisson`, each defined beside its code.
#pragma once

#include "cli/command.h"

namespace caisson::cli {

// container_commands.cc
extern const Command kRunCommand, kCreateCommand, kStartCommand, kStopCommand, kRestartCommand, kKillCommand, kRmCommand, kWaitCommand, kAttachCommand, kExecCommand,
    kRenameCommand, kPauseCommand, kUnpauseCommand, kMonitorCommand;
// report_commands.cc
extern const Command kPsCommand, kLogsCommand, kInspectCommand, kStatsCommand, kTopCommand, kPortCommand;
// image_commands.cc
extern const Command kImagesCommand, kImageCommand, kRmiCommand, kTagCommand, kLoadCommand, kSaveCommand, kImportCommand, kExportCommand;
// resource_commands.cc
extern const Command kNetworkCommand, kVolumeCommand, kPruneCommand, kSystemCommand, kVersionCommand;
// broker_command.cc
extern const Command kMountBrokerCommand;
// rootless_commands.cc
extern const Command kUnshareCommand, kKeeperCommand;
// capture_command.cc
extern const Command kAnalyzeCommand, kCaptureCommand, kDiscoverCommand;
// source_commands.cc
extern const Command kDiffCommand, kRestoreDataCommand;
// registry_commands.cc
extern const Command kPullCommand, kFillImageCommand, kPushCommand, kCopyCommand, kManifestCommand, kLoginCommand, kLogoutCommand, kTagsCommand;
// registry_server_command.cc
extern const Command kRegistryCommand;
// artifact_command.cc
extern const Command kArtifactCommand;
// element_command.cc
extern const Command kElementCommand;
// build_command.cc
extern const Command kBuildCommand;
// copy_command.cc
extern const Command kCpCommand;

/// Without root: as root of the user's own namespaces goes what works on containers and images.
[[nodiscard]] Result<> enter_own_namespaces(const Command& command, const Globals& globals);
/// Runs `caisson` with the arguments after its name.
int run_caisson(const std::vector<std::string>& arguments);

}  // namespace caisson::cli
