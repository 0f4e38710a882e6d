//! Flags of `vrouter run`: one for each entry of the table of settings.
//!
//! The table says what there is and what is right; here a flag is only carried to it as text, so a
//! setting that is added there is a flag at once.

use std::path::Path;

use clap::error::Error;
use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches};
use config::settings::{SETTINGS, Setting};

/// What people used to other daemons type.
const ALIASES: [(&str, &str); 2] = [("node-name", "node"), ("uplinks", "uplink")];

const API_SOCKET: &str = "api-socket";

/// The settings given as flags, as `Settings::load` takes them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SettingFlags {
    given: Vec<(String, String)>,
}

impl SettingFlags {
    /// Names without dashes, and values.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.given.iter().map(|(flag, value)| (flag.as_str(), value.as_str()))
    }

    /// Where the command line would look for the daemon, there the daemon listens, unless its own
    /// flag says otherwise.
    pub fn default_socket(&mut self, socket: Option<&Path>) {
        let is_given = self.given.iter().any(|(flag, _)| flag == API_SOCKET);
        if let (Some(socket), false) = (socket, is_given) {
            self.given.push((API_SOCKET.to_string(), socket.display().to_string()));
        }
    }
}

impl Args for SettingFlags {
    fn augment_args(command: Command) -> Command {
        SETTINGS.iter().fold(command, |command, setting| command.arg(argument(setting)))
    }

    fn augment_args_for_update(command: Command) -> Command {
        SettingFlags::augment_args(command)
    }
}

impl FromArgMatches for SettingFlags {
    fn from_arg_matches(matches: &ArgMatches) -> Result<SettingFlags, Error> {
        let given = SETTINGS.iter().filter_map(|setting| {
            let values: Vec<&str> = matches.get_many::<String>(setting.name)?.map(String::as_str).collect();
            Some((setting.flag(), values.join(",")))
        });
        Ok(SettingFlags { given: given.collect() })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), Error> {
        *self = SettingFlags::from_arg_matches(matches)?;
        Ok(())
    }
}

fn argument(setting: &Setting) -> Arg {
    let flag = setting.flag();
    let alias = ALIASES.iter().find(|(name, _)| *name == flag).map(|(_, alias)| *alias);
    Arg::new(setting.name)
        .long(flag)
        .aliases(alias)
        .help(setting.about)
        .value_name("VALUE")
        .action(ArgAction::Append)
        .help_heading("Settings, also in the file and the environment")
}
