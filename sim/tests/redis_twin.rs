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

/// What may differ: the time that is left, the order of a hash, and how an error goes on.
fn comparable(name: &str, reply: Reply) -> Reply {
    match reply {
        Reply::Integer(left) if name == "PTTL" && left > 0 => Reply::Integer(1),
        Reply::Array(replies) if name == "HGETALL" => {
            let mut pairs: Vec<_> = replies.chunks(2).map(|pair| format!("{pair:?}")).collect();
            pairs.sort();
            Reply::Status(pairs.join(" "))
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
