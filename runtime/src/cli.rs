//! Arguments of the command.

use std::{ffi::OsString, time::Duration};

use lexopt::{Arg, Error, Parser, ValueExt as _};
use realtime_core::stream::{USER_BYTES_MAX, check};
use realtime_runtime::{config::parse_duration, token::Grant};

/// What to do.
#[derive(Debug)]
pub(crate) enum Command {
    /// Run the service.
    Serve,
    /// Check the configuration.
    CheckConfig,
    /// Make a token.
    Token(Grant),
    /// Ask the local instance whether it is alive.
    Healthcheck,
    /// Explain the command.
    Help,
    /// Tell the version.
    Version,
}

/// What `--help` says.
pub(crate) const HELP: &str = "\
realtime: a WebSocket push service

Usage: realtime [COMMAND]

Commands:
  (none)        run the service until SIGTERM or SIGINT; a second one ends it at once
  check-config  check the configuration and stop
  token         make a token with JWT_SECRET:
                  --user ID        whom it names
                  --room PATTERN   a room pattern it grants, such as 'vip:*'; may be repeated
                  --ttl DURATION   how long it is good, such as 30m (default 1h)
  healthcheck   ask the local instance's /health; exit code 0 if it is alive

Options:
  -h, --help     this text
  -V, --version  the version

Everything else is configured by environment variables; env.example lists them all. Without any,
the service runs on its own on port 3003 (WebSocket and HTTP) and 50057 (gRPC).

Exit codes: 0 stopped in order, 1 failed, 2 wrong usage or configuration.";

/// Reads the arguments, the first of which is the name of the command.
///
/// # Errors
/// They make no sense; the error is one line.
pub(crate) fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Command, Error> {
    let mut parser = Parser::from_iter(arguments);
    let Some(argument) = parser.next()? else {
        return Ok(Command::Serve);
    };
    let command = match argument {
        Arg::Short('h') | Arg::Long("help") => Command::Help,
        Arg::Short('V') | Arg::Long("version") => Command::Version,
        Arg::Value(name) => match name.string()?.as_str() {
            "check-config" => Command::CheckConfig,
            "token" => return token(&mut parser),
            "healthcheck" => Command::Healthcheck,
            other => return Err(format!("unknown command {other:?}; see --help").into()),
        },
        Arg::Short(_) | Arg::Long(_) => return Err(argument.unexpected()),
    };
    match parser.next()? {
        None => Ok(command),
        Some(Arg::Short('h') | Arg::Long("help")) => Ok(Command::Help),
        Some(argument) => Err(argument.unexpected()),
    }
}

fn token(parser: &mut Parser) -> Result<Command, Error> {
    let mut user = None;
    let mut rooms = Vec::new();
    let mut ttl = DEFAULT_TTL;
    while let Some(argument) = parser.next()? {
        match argument {
            Arg::Short('h') | Arg::Long("help") => return Ok(Command::Help),
            Arg::Long("user") => user = Some(parser.value()?.string()?),
            Arg::Long("room") => rooms.push(parser.value()?.string()?),
            Arg::Long("ttl") => {
                let text = parser.value()?.string()?;
                ttl = parse_duration(&text)
                    .ok_or_else(|| format!("--ttl {text:?}: give a duration such as 30m or 1h"))?;
            }
            Arg::Short(_) | Arg::Long(_) | Arg::Value(_) => return Err(argument.unexpected()),
        }
    }
    let user = user.ok_or("token needs --user ID")?;
    check(&user, USER_BYTES_MAX)
        .map_err(|_| format!("--user {user:?}: give up to {USER_BYTES_MAX} bytes of text"))?;
    Ok(Command::Token(Grant { user, rooms, ttl }))
}

const DEFAULT_TTL: Duration = Duration::from_secs(3_600);

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(arguments: &[&str]) -> Result<Command, String> {
        let all = ["realtime"].iter().chain(arguments).map(OsString::from);
        parse(all).map_err(|error| error.to_string())
    }

    #[test]
    fn no_arguments_serve() {
        assert!(matches!(parsed(&[]), Ok(Command::Serve)));
    }

    #[test]
    fn commands_are_known_by_name() {
        assert!(matches!(parsed(&["check-config"]), Ok(Command::CheckConfig)));
        assert!(matches!(parsed(&["healthcheck"]), Ok(Command::Healthcheck)));
        for help in [&["--help"][..], &["-h"], &["token", "--help"], &["check-config", "-h"]] {
            assert!(matches!(parsed(help), Ok(Command::Help)), "{help:?}");
        }
        assert!(matches!(parsed(&["--version"]), Ok(Command::Version)));
    }

    #[test]
    fn a_token_has_a_user_rooms_and_a_time_to_live() {
        let arguments = ["token", "--user", "user-1", "--room", "vip:*", "--room=a", "--ttl", "2m"];
        let Ok(Command::Token(grant)) = parsed(&arguments) else {
            panic!("it is a token");
        };
        assert_eq!((&*grant.user, grant.ttl), ("user-1", Duration::from_secs(120)));
        assert_eq!(grant.rooms, ["vip:*", "a"]);
    }

    #[test]
    fn nonsense_is_refused_in_one_line() {
        for arguments in [
            &["serve"][..],
            &["--port", "1"],
            &["-x"],
            &["check-config", "now"],
            &["token"],
            &["token", "--user"],
            &["token", "--user", ""],
            &["token", "--user", "u", "--ttl", "3"],
            &["token", "--user", "u", "extra"],
        ] {
            let error = parsed(arguments).expect_err("must be refused");
            assert!(!error.is_empty() && !error.contains('\n'), "{arguments:?}: {error}");
        }
    }

    #[test]
    fn help_fits_a_screen() {
        assert!(HELP.lines().count() <= 24 && HELP.lines().all(|line| line.len() <= 100));
    }
}
