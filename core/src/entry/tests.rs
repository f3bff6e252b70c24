use proptest::prelude::*;

use super::*;

const DURABLE: &str = "1 D 000000000000001f 41 0abcdef012345678 00000000000000ff\n";
const LATEST: &str = "1 L 000000000000001f 41 7 0abcdef012345678\n";
const BODY: &str = "a 00000000000000aa 1700000000000 5 3 2\noffere-1k1{\"n\": 1}";

fn position() -> Position {
    Position { epoch: Epoch(0x1f), offset: 41, mid: Mid(0x0abc_def0_1234_5678) }
}

fn body() -> Body {
    Body {
        kind: "offer".into(),
        payload: "{\"n\": 1}".into(),
        exclude_user: Some("e-1".into()),
        key: "k1".into(),
        ack: true,
        origin: BootId(0xaa),
        published: UnixMillis(1_700_000_000_000),
    }
}

fn decode(text: &str) -> Result<Entry, EntryError> {
    Entry::decode(&Bytes::copy_from_slice(text.as_bytes()))
}

#[test]
fn a_durable_entry_has_the_documented_form() {
    let place = Place::Durable { position: position(), prev: Mid(0xff) };
    let entry = Entry { place, body: body() };
    assert_eq!(entry.encode(), [DURABLE, BODY].concat());
    assert_eq!(decode(&[DURABLE, BODY].concat()), Ok(entry));
}

#[test]
fn a_latest_entry_has_the_documented_form() {
    let Position { epoch, offset, mid } = position();
    let place = Place::Latest { epoch, at: offset, version: 7, mid };
    let entry = Entry { place, body: body() };
    assert_eq!(entry.encode(), [LATEST, BODY].concat());
    assert_eq!(decode(&[LATEST, BODY].concat()), Ok(entry));
}

#[test]
fn a_rollover_has_the_documented_form_and_is_no_entry() {
    let rollover = Rollover { epoch: Epoch(0xAB), offset: 7 };
    let text = "1 R 00000000000000ab 7\n";
    assert_eq!(rollover.encode(), text);
    assert_eq!(Rollover::decode(text.as_bytes()), Some(rollover));
    // What is older takes it for something that it can't read, and looks where the stream is.
    assert_eq!(decode(text), Err(EntryError::Malformed));
    for other in [
        "2 R 00000000000000ab 7\n",
        "1 D 00000000000000ab 7\n",
        "1 R ab 7\n",
        "1 R 00000000000000ab\n",
        "1 R 00000000000000ab 7 7\n",
        "1 R 00000000000000ab x\n",
        "1 R 00000000000000ab 7\nx",
        "1 R 00000000000000ab 7",
    ] {
        assert_eq!(Rollover::decode(other.as_bytes()), None, "{other:?}");
    }
}

#[test]
fn names_and_payload_may_contain_what_separates_them() {
    let odd = Body {
        kind: "a\n b".into(),
        payload: "\n\"é\n\"".into(),
        exclude_user: None,
        key: "0 0\n".into(),
        ack: false,
        ..body()
    };
    assert_eq!(Body::decode(&odd.encode()), Ok(odd));
}

#[test]
fn a_payload_shares_the_entrys_memory() {
    let bytes = Bytes::from([DURABLE, BODY].concat());
    let payload = Entry::decode(&bytes).unwrap().body.payload;
    assert_eq!(payload.as_ptr_range().end, bytes.as_ptr_range().end);
}

#[test]
fn other_versions_are_told_apart_from_damage() {
    for version in ["0", "2", "10", "255", "18446744073709551615"] {
        let text = [version, &DURABLE[1..], BODY].concat();
        assert_eq!(decode(&text), Err(EntryError::Version), "{text}");
    }
    // What another version has behind its number is its own affair.
    assert_eq!(decode("2 X\n"), Err(EntryError::Version));
    for version in ["", "01", "x", "-1", "+1", "18446744073709551616"] {
        let text = [version, &DURABLE[1..], BODY].concat();
        assert_eq!(decode(&text), Err(EntryError::Malformed), "{text}");
    }
}

#[test]
fn damaged_headers_are_malformed() {
    for header in [
        "",
        "\n",
        "1\n",
        "1 D\n",
        "1 D 000000000000001f 41 0abcdef012345678\n",
        "1 D 000000000000001f 41 0abcdef012345678 00000000000000ff 0\n",
        "1 D 00000000000001f 41 0abcdef012345678 00000000000000ff\n",
        "1 D 000000000000001F 41 0abcdef012345678 00000000000000ff\n",
        "1 D 000000000000001f 041 0abcdef012345678 00000000000000ff\n",
        "1 D 000000000000001f -41 0abcdef012345678 00000000000000ff\n",
        "1 D 000000000000001f  0abcdef012345678 00000000000000ff\n",
        "1 D 000000000000001f 18446744073709551616 0abcdef012345678 00000000000000ff\n",
        "1 D  000000000000001f 41 0abcdef012345678 00000000000000ff\n",
        "1 D 000000000000001f 41 0abcdef012345678 00000000000000ff\r\n",
        "1 d 000000000000001f 41 0abcdef012345678 00000000000000ff\n",
        "1 R 000000000000001f 41 0abcdef012345678 00000000000000ff\n",
        "1 L 000000000000001f 41 -7 0abcdef012345678\n",
        "1 L 000000000000001f 41 7 0abcdef01234567\n",
        " 1 D 000000000000001f 41 0abcdef012345678 00000000000000ff\n",
    ] {
        assert_eq!(decode(&[header, BODY].concat()), Err(EntryError::Malformed), "{header:?}");
    }
    let late = [&DURABLE[..DURABLE.len() - 1], &" ".repeat(200), "\n", BODY].concat();
    assert_eq!(decode(&late), Err(EntryError::Malformed));
}

#[test]
fn damaged_bodies_are_malformed() {
    for body in [
        "",
        "\n",
        "a 00000000000000aa 1 5 3 2",
        "a 00000000000000aa 1 5 3 2\noffere-1k",
        "a 00000000000000aa 1 5 3\noffere-1{}",
        "b 00000000000000aa 1 5 3 2\noffere-1k1{}",
        " 00000000000000aa 1 5 3 2\noffere-1k1{}",
        "a aa 1 5 3 2\noffere-1k1{}",
        "a 00000000000000aa 01 5 3 2\noffere-1k1{}",
        "a 00000000000000aa 1 5 3 18446744073709551615\noffere-1k1{}",
        "a 00000000000000aa 1 5 3 18446744073709551616\noffere-1k1{}",
        "- 00000000000000aa 1 1 1 0\n\u{e9}{}", // Cuts a character in two.
    ] {
        assert_eq!(decode(&[DURABLE, body].concat()), Err(EntryError::Malformed), "{body:?}");
    }
    let payload = [DURABLE.as_bytes(), BODY.as_bytes(), b"\xff"].concat();
    assert_eq!(Entry::decode(&payload.into()), Err(EntryError::Malformed), "text frames are UTF-8");
}

#[test]
fn the_longest_headers_are_read() {
    let mid = Mid(u64::MAX);
    let place = Place::Durable {
        position: Position { epoch: Epoch(u64::MAX), offset: u64::MAX, mid },
        prev: mid,
    };
    let published = UnixMillis(u64::MAX);
    let kind: Arc<str> = "x".repeat(100_000).into();
    let key = Arc::clone(&kind);
    let entry =
        Entry { place, body: Body { published, kind, key, origin: BootId(u64::MAX), ..body() } };
    assert_eq!(Entry::decode(&entry.encode()), Ok(entry));
    let place = Place::Latest { epoch: Epoch(u64::MAX), at: u64::MAX, version: u64::MAX, mid };
    let entry = Entry { place, body: body() };
    assert_eq!(Entry::decode(&entry.encode()), Ok(entry));
}

fn any_place() -> impl Strategy<Value = Place> {
    any::<(bool, u64, u64, u64, u64)>().prop_map(|(durable, epoch, offset, mid, other)| {
        let (epoch, mid) = (Epoch(epoch), Mid(mid));
        if durable {
            Place::Durable { position: Position { epoch, offset, mid }, prev: Mid(other) }
        } else {
            Place::Latest { epoch, at: offset, version: other, mid }
        }
    })
}

fn any_body() -> impl Strategy<Value = Body> {
    let names = (any::<String>(), prop::option::of("(?s).{1,20}"), any::<String>());
    (names, any::<String>(), any::<(bool, u64, u64)>()).prop_map(
        |((kind, exclude, key), payload, (ack, origin, published))| Body {
            kind: kind.into(),
            payload: payload.into(),
            exclude_user: exclude.map(Into::into),
            key: key.into(),
            ack,
            origin: BootId(origin),
            published: UnixMillis(published),
        },
    )
}

proptest! {
    #[test]
    fn entries_are_read_as_they_were_written(place in any_place(), body in any_body()) {
        let entry = Entry { place, body };
        prop_assert_eq!(Entry::decode(&entry.encode()), Ok(entry));
    }

    #[test]
    fn a_damaged_entry_is_refused_or_canonical(
        place in any_place(),
        body in any_body(),
        at: prop::sample::Index,
        byte: u8,
        cut: bool,
    ) {
        let mut bytes = Entry { place, body }.encode().to_vec();
        if cut {
            bytes.truncate(at.index(bytes.len()));
        } else {
            *at.get_mut(&mut bytes) = byte;
        }
        let bytes = Bytes::from(bytes);
        if let Ok(entry) = Entry::decode(&bytes) {
            prop_assert_eq!(entry.encode(), bytes);
        }
    }
}
