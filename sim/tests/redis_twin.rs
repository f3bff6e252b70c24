//! The simulated Redis answers as a real one does.

#![expect(clippy::unwrap_used, clippy::wildcard_enum_match_arm, reason = "this is a test")]

use std::{
    cell::RefCell,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::TcpStream,
    process::{Child, Command, Stdio},
};

use bytes::Bytes;
use proptest::{prelude::*, test_runner::TestRunner};
use realtime_runtime::broker::SCRIPTS;
use realtime_sim::redis::{Redis, Reply};

/// A real server, on a free port, without a disk.
struct Server {
    process: Child,
    stream: BufReader<TcpStream>,
}

impl Server {
    fn start() -> Self {
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut process = Command::new("redis-server")
            // A port that is free here may be taken on other addresses.
            .args(["--bind", "127.0.0.1", "--port", &port.to_string()])
            .args(["--save", "", "--appendonly", "no"])
            .stdout(Stdio::piped())
            .spawn()
            .expect("redis-server is missing: install the Debian package redis-server");
        let lines = BufReader::new(process.stdout.take().unwrap()).lines();
        assert!(
            lines.map_while(Result::ok).any(|line| line.contains("Ready to accept connections")),
            "redis-server did not start"
        );
        let stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        Self { process, stream: BufReader::new(stream) }
    }

    fn call(&mut self, request: &[Bytes]) -> Reply {
        let mut bytes = Vec::new();
        Reply::Array(request.iter().cloned().map(Reply::bulk).collect()).encode(&mut bytes);
        self.stream.get_mut().write_all(&bytes).unwrap();
        self.reply()
    }

    fn reply(&mut self) -> Reply {
        let mut line = String::new();
        self.stream.read_line(&mut line).unwrap();
        let line = line.trim_end();
        let (kind, text) = line.split_at(1);
        let length = || text.parse::<i64>().unwrap();
        match kind {
            "+" => Reply::Status(text.to_owned()),
            "-" => Reply::Error(text.to_owned()),
            ":" => Reply::Integer(length()),
            "$" => Reply::Bulk(usize::try_from(length()).ok().map(|length| {
                let mut value = vec![0; length + 2];
                self.stream.read_exact(&mut value).unwrap();
                value.truncate(length);
                value.into()
            })),
            "*" => Reply::Array((0..length()).map(|_| self.reply()).collect()),
            other => panic!("an unknown kind of reply: {other}"),
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

fn command() -> impl Strategy<Value = Vec<String>> {
    let key = || "[abc]";
    let value = || "[x-z]{0,3}";
    let index = || (-4_i64..4).prop_map(|index| index.to_string());
    let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
    prop_oneof![
        key().prop_map(move |k| [words(&["GET"]), vec![k]].concat()),
        (key(), value()).prop_map(move |(k, v)| [words(&["SET"]), vec![k, v]].concat()),
        (key(), value())
            .prop_map(move |(k, v)| [words(&["SET"]), vec![k, v], words(&["NX"])].concat()),
        (key(), value()).prop_map(move |(k, v)| {
            [words(&["SET"]), vec![k, v], words(&["PX", "100000", "NX"])].concat()
        }),
        (key(), value(), value()).prop_map(|(k, v, w)| vec!["RPUSH".into(), k, v, w]),
        key().prop_map(|k| vec!["LPOP".into(), k]),
        key().prop_map(|k| vec!["RPOP".into(), k]),
        key().prop_map(|k| vec!["LLEN".into(), k]),
        (key(), index(), index()).prop_map(|(k, a, b)| vec!["LRANGE".into(), k, a, b]),
        (key(), index(), index()).prop_map(|(k, a, b)| vec!["LTRIM".into(), k, a, b]),
        (key(), value(), value()).prop_map(|(k, f, v)| vec!["HSET".into(), k, f, v]),
        (key(), value()).prop_map(|(k, f)| vec!["HGET".into(), k, f]),
        (key(), value()).prop_map(|(k, f)| vec!["HDEL".into(), k, f]),
        key().prop_map(|k| vec!["HLEN".into(), k]),
        key().prop_map(|k| vec!["HGETALL".into(), k]),
        (key(), key()).prop_map(|(k, l)| vec!["DEL".into(), k, l]),
        key().prop_map(|k| vec!["PEXPIRE".into(), k, "100000".into()]),
        key().prop_map(|k| vec!["PEXPIRE".into(), k, "0".into()]),
        key().prop_map(|k| vec!["PTTL".into(), k]),
        key().prop_map(|k| vec!["PUBLISH".into(), k, "m".into()]),
        Just(vec!["NOSUCH".into()]),
    ]
}

/// What the service's own scripts are asked to do, and what may happen to their keys meanwhile.
#[derive(Clone, Debug)]
enum Deed {
    Publish {
        mid: u64,
        body: String,
        key: Option<&'static str>,
        again: bool,
    },
    Latest {
        mid: u64,
        field: String,
        key: Option<&'static str>,
    },
    Plain {
        mid: u64,
        key: Option<&'static str>,
    },
    Read {
        after: String,
    },
    Heads,
    /// A key is evicted, or somebody else has written it.
    Evict(&'static str),
    Write(&'static str, &'static str),
    Push(&'static str, &'static str),
}

fn deed() -> impl Strategy<Value = Deed> {
    // Few, so that many are asked for again.
    let mid = || 1..8_u64;
    let key = || prop_oneof![Just(None), Just(None), Just(Some("i")), Just(Some("j"))];
    let stored = || prop::sample::select(&["meta", "log", "latest", "i"][..]);
    let junk = || prop::sample::select(&["", "x", "00000000000000e7 5 0000000000000001 30"][..]);
    let publish = (mid(), "[a-z]{0,30}", key(), any::<bool>());
    let after = prop_oneof![Just(String::new()), (0..9_u64).prop_map(|at| at.to_string())];
    prop_oneof![
        8 => publish.prop_map(|(mid, body, key, again)| Deed::Publish { mid, body, key, again }),
        5 => (mid(), "[a-e]", key()).prop_map(|(mid, field, key)| Deed::Latest { mid, field, key }),
        2 => (mid(), key()).prop_map(|(mid, key)| Deed::Plain { mid, key }),
        4 => after.prop_map(|after| Deed::Read { after }),
        1 => Just(Deed::Heads),
        1 => stored().prop_map(Deed::Evict),
        1 => (stored(), junk()).prop_map(|(key, junk)| Deed::Write(key, junk)),
        1 => (stored(), junk()).prop_map(|(key, junk)| Deed::Push(key, junk)),
    ]
}

/// As the service sends it: the keys and arguments are those at the head of each script.
fn request(deed: &Deed) -> Vec<String> {
    let name = |key: &str| format!("realtime:{{event:1}}:{key}");
    let hex = |mid: &u64| format!("{mid:016x}");
    let call = |script: &str, keys: &[&str], key: &Option<&str>, args: &[&str]| {
        let keys: Vec<_> = keys.iter().copied().chain(*key).map(name).collect();
        let head = ["EVALSHA".to_owned(), script.to_owned(), keys.len().to_string()];
        let args = args.iter().map(ToString::to_string);
        head.into_iter().chain(keys).chain(args).collect::<Vec<_>>()
    };
    let ttl = "100000";
    let channel = "realtime:{event:1}";
    match deed {
        Deed::Publish { mid, body, key, again } => {
            let again = if *again { "1" } else { "" };
            let epoch = hex(&(0xE0 + mid));
            let args = [channel, &hex(mid), &epoch, body, "4", "250", ttl, ttl, ttl, again];
            call("publish", &["meta", "log"], key, &args)
        }
        Deed::Latest { mid, field, key } => {
            let args = [channel, &hex(mid), field, "body", "3", ttl, ttl];
            call("latest", &["latest", "meta"], key, &args)
        }
        Deed::Plain { mid, key } => call("plain", &[], key, &[channel, &hex(mid), "entry", ttl]),
        Deed::Read { after } => {
            call("read", &["meta", "log", "latest"], &None, &[&hex(&0xEF), ttl, after])
        }
        Deed::Heads => call("heads", &["meta", "latest", "log", "latest"], &None, &[ttl]),
        Deed::Evict(key) => vec!["DEL".into(), name(key)],
        Deed::Write(key, text) => vec!["SET".into(), name(key), (*text).into()],
        Deed::Push(key, text) => vec!["RPUSH".into(), name(key), (*text).into()],
    }
}

/// Everything that the scripts keep, with the time that it lives.
fn contents() -> Vec<Vec<String>> {
    let name = |key: &str| format!("realtime:{{event:1}}:{key}");
    let of = |command: &str, key: &str| vec![command.to_owned(), name(key)];
    let mut log = of("LRANGE", "log");
    log.extend(["0".to_owned(), "-1".to_owned()]);
    let mut all = vec![of("GET", "meta"), log, of("HGETALL", "latest"), of("GET", "i")];
    all.extend(["meta", "log", "latest", "i", "j"].map(|key| of("PTTL", key)));
    all
}

/// What may differ: the time that is left, the order of a hash, and how an error goes on.
fn comparable(name: &str, reply: Reply) -> Reply {
    match reply {
        Reply::Integer(left) if name == "PTTL" && left > 0 => Reply::Integer(1),
        Reply::Array(replies) if name == "HGETALL" => {
            let mut pairs: Vec<_> = replies.chunks(2).map(|pair| format!("{pair:?}")).collect();
            pairs.sort();
            Reply::Status(pairs.join(" "))
        }
        Reply::Array(mut replies) if name == "read" => {
            if let Some(Reply::Array(values)) = replies.last_mut() {
                values.sort_by_key(|value| format!("{value:?}"));
            }
            Reply::Array(replies)
        }
        Reply::Error(text) => Reply::Error(text.split(' ').next().unwrap().to_owned()),
        other => other,
    }
}

#[test]
fn both_answer_any_sequence_of_commands_alike() {
    let server = RefCell::new(Server::start());
    let sequences = prop::collection::vec(command(), 1..60);
    let config = ProptestConfig { cases: 200, failure_persistence: None, ..Default::default() };
    TestRunner::new(config)
        .run(&sequences, |commands| {
            let mut twin = Redis::default();
            server.borrow_mut().call(&["FLUSHALL".into()]);
            for command in commands {
                let request: Vec<Bytes> = command.iter().cloned().map(Bytes::from).collect();
                let real = comparable(&command[0], server.borrow_mut().call(&request));
                let ours = comparable(&command[0], twin.call(1_000_000, 1, &request));
                prop_assert_eq!(ours, real, "{:?}", command);
            }
            Ok(())
        })
        .unwrap();
}

#[test]
fn both_answer_the_scripts_of_the_service_alike() {
    let server = RefCell::new(Server::start());
    let sequences = prop::collection::vec(deed(), 1..40);
    let config = ProptestConfig { cases: 200, failure_persistence: None, ..Default::default() };
    TestRunner::new(config)
        .run(&sequences, |deeds| {
            let mut twin = Redis::default();
            let mut both = |request: &[String]| {
                let name = match &request[0][..] {
                    // The values come in the order of a hash.
                    "EVALSHA" if request.contains(&sha("read")) => "read",
                    other => other,
                };
                let bytes: Vec<Bytes> = request.iter().cloned().map(Bytes::from).collect();
                let real = comparable(name, server.borrow_mut().call(&bytes));
                let ours = comparable(name, twin.call(1_000_000, 1, &bytes));
                (ours, real)
            };
            let setup = [vec!["FLUSHALL"], FUTURE.to_vec()];
            let load = SCRIPTS.map(|(_, text)| vec!["SCRIPT", "LOAD", text]);
            for request in setup.iter().chain(&load) {
                let request: Vec<_> = request.iter().map(ToString::to_string).collect();
                let (ours, real) = both(&request);
                prop_assert_eq!(ours, real);
            }
            for deed in &deeds {
                let mut request = request(deed);
                if request[0] == "EVALSHA" {
                    request[1] = sha(&request[1]);
                }
                let (ours, real) = both(&request);
                prop_assert_eq!(ours, real, "{:?}", deed);
                for request in contents() {
                    let (ours, real) = both(&request);
                    prop_assert_eq!(ours, real, "{:?} after {:?}", request, deed);
                }
                // An evicted version would begin again with the time, which is not the same.
                if matches!(deed, Deed::Evict("latest") | Deed::Write("latest", _)) {
                    both(&["DEL".to_owned(), FUTURE[1].to_owned()]);
                    both(&FUTURE.map(str::to_owned));
                }
            }
            Ok(())
        })
        .unwrap();
}

/// Versions of latest values go on from here: far beyond any clock.
const FUTURE: [&str; 4] = ["HSET", "realtime:{event:1}:latest", "#v", "8000000000000000"];

/// What Redis knows a script of the service by.
fn sha(name: &str) -> String {
    let (_, text) = SCRIPTS.iter().find(|(other, _)| *other == name).unwrap();
    sha1_smol::Sha1::from(text).digest().to_string()
}

#[test]
fn both_run_scripts_alike() {
    let scripts = [
        "return {1, 'a', false, redis.call('SET', KEYS[1], ARGV[1]), {2}}",
        "#!lua\nreturn redis.call('GET', KEYS[1])",
        "return redis.call('LLEN', KEYS[1])",
        "return redis.pcall('LLEN', KEYS[1])",
        "local r = redis.pcall('LLEN', KEYS[1]) return type(r) .. tostring(r.err ~= nil)",
        "return redis.error_reply('ERR mine')",
        "return string.format('%.0f', 9007199254740991 + 0)",
        "return redis.call('GET', 'nothing') == false",
        "return 3.99",
        "return nil",
        "redis.call('SET', KEYS[1], 17) return redis.call('GET', KEYS[1])",
        "return {redis.call('PUBLISH', 'c', 'm'), redis.call('PUBSUB', 'NUMSUB', 'c')[2]}",
        "this is no Lua",
    ];
    let mut server = Server::start();
    let mut twin = Redis::default();
    for script in scripts {
        let request = ["EVAL", script, "1", "{k}", "v"].map(Bytes::from).to_vec();
        let real = comparable("EVAL", server.call(&request));
        let ours = comparable("EVAL", twin.call(1_000_000, 1, &request));
        assert_eq!(ours, real, "{script}");
    }
    let unknown = ["EVALSHA", &"0".repeat(40), "0"].map(|s| Bytes::from(s.to_owned())).to_vec();
    assert_eq!(
        comparable("EVALSHA", server.call(&unknown)),
        comparable("EVALSHA", twin.call(1_000_000, 1, &unknown)),
    );
}
