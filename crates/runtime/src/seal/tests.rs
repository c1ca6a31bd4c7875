//! The layout, byte for byte, and that nothing but what was sealed comes out of it.

use super::keys::{KeyId, SealKey};
use super::record::{self, DataKey, Head};
use super::*;
use enginehouse_api::Code;
use enginehouse_core::id::Key;
use enginehouse_core::time::Time;

const LIMIT: usize = 1 << 20;

fn sealer() -> Sealer {
    Sealer::new(Ring::new(Time(1)), &SealSettings::default())
}

fn current(sealer: &Sealer) -> KeyId {
    sealer.ring().current().expect("a key").id
}

fn golden_key() -> DataKey {
    DataKey::new(KeyId([1, 2, 3, 4]), &[0x2a; 32])
}

/// Both texts were made by another implementation of HKDF and AES-GCM, from the words in `record`'s description.
#[test]
fn records_have_the_documented_bytes() {
    const PLAIN: &[u8] = br#"{"answer":42}"#;
    const NOW: &str = "454802010001020304000102030405060708090a0b0c0d0e0f1011121314151617\
                       9d3c278ac520d928d0baf33646a05ad6c1e8478007615bc7a88e2c5274";
    const BEFORE: &str =
        "010001020304000102030405060708090a0b370f3526ef54464cbc0932d9afa71835e4ac887dd7653e4c1310db6942";
    let mut nonce = [0; record::NONCE];
    (0..).zip(&mut nonce).for_each(|(number, byte)| *byte = number);
    let key = golden_key();
    let made = record::seal(&key, Key(5), Column::Output, PLAIN, true, nonce);
    assert_eq!(hex(&made), NOW);
    for text in [NOW, BEFORE] {
        let bytes = unhex(text).expect("hexadecimal");
        let opened = record::open(|_| Some(&key), Key(5), Column::Output, &bytes, LIMIT);
        assert_eq!(opened.as_deref(), Ok(PLAIN));
        assert!(record::open(|_| Some(&key), Key(6), Column::Output, &bytes, LIMIT).is_err());
    }
    assert_eq!(hex(&record::plain(Column::Output, PLAIN, true)), format!("454802000000000000{}", hex(PLAIN)));
    let head = |text: &str| Head::read(&unhex(text).expect("hexadecimal")[..9]);
    assert_eq!(head(NOW), Head::Sealed { version: 2, key: KeyId([1, 2, 3, 4]) });
    assert_eq!(head(BEFORE), Head::Sealed { version: 1, key: KeyId([1, 2, 3, 4]) });
}

#[test]
fn payloads_come_back_and_are_not_readable_at_rest() {
    for (compress, encrypt) in [(true, true), (true, false), (false, true), (false, false)] {
        let ring = Ring { plain: !encrypt, ..Ring::new(Time(1)) };
        let sealer = Sealer::new(ring, &SealSettings { compress, encrypt, ..SealSettings::default() });
        for plain in [b"".to_vec(), b"short".to_vec(), b"canary ".repeat(10_000)] {
            let sealed = sealer.seal(Key(5), Column::Output, &plain);
            let readable = sealed.windows(6).any(|window| window == b"canary");
            assert!(!(encrypt && readable) && (!compress || sealed.len() < 1_000), "{compress} {encrypt}");
            assert_eq!(sealer.open(Key(5), Column::Output, &sealed, LIMIT), Ok(plain));
        }
    }
}

#[test]
fn each_changed_part_of_a_record_is_refused_with_its_own_words() {
    let sealer = sealer();
    let id = current(&sealer);
    let sealed = sealer.seal(Key(5), Column::Output, &b"payload ".repeat(100));
    let open = |bytes: &[u8]| sealer.open(Key(5), Column::Output, bytes, LIMIT);
    for at in 0..sealed.len() {
        for flip in [1, 0x80] {
            let mut bad = sealed.to_vec();
            bad[at] ^= flip;
            let expected = match at {
                // Magic, version, algorithm; one of the changes turns "AES" into "none".
                3 if flip == 1 => SealError::Bare,
                0..=3 => SealError::Unknown,
                // The key.
                5..=8 => SealError::MissingKey(KeyId(bad[5..9].try_into().expect("four bytes"))),
                // Compression, nonce, ciphertext and tag.
                _ => SealError::Damaged(id),
            };
            assert_eq!(open(&bad), Err(expected), "byte {at}");
        }
    }
    for length in 0..sealed.len() {
        assert!(open(&sealed[..length]).is_err(), "{length} bytes");
    }
    assert!(open(&[&sealed[..], &[0]].concat()).is_err());
}

#[test]
fn another_row_column_or_ring_opens_nothing() {
    let sealer = sealer();
    let sealed = sealer.seal(Key(5), Column::Output, b"payload");
    let damaged = Err(SealError::Damaged(current(&sealer)));
    assert_eq!(sealer.open(Key(6), Column::Output, &sealed, LIMIT), damaged);
    for column in [Column::Input, Column::Logs, Column::Failure, Column::Fact] {
        assert_eq!(sealer.open(Key(5), column, &sealed, LIMIT), damaged);
    }
    let missing = SealError::MissingKey(current(&sealer));
    assert_eq!(super::tests::sealer().open(Key(5), Column::Output, &sealed, LIMIT), Err(missing.clone()));
    assert_eq!(missing.code(), Code::KeyMissing);
    assert!(missing.to_string().contains(&current(&sealer).to_string()));
}

#[test]
fn nothing_is_unpacked_beyond_its_limit() {
    let sealer = sealer();
    let sealed = sealer.seal(Key(5), Column::Output, &vec![b'0'; 1 << 20]);
    assert!(sealed.len() < 1_000, "one million zeros take {} bytes", sealed.len());
    let open = |sealed: &[u8], most| sealer.open(Key(5), Column::Output, sealed, most);
    assert_eq!(open(&sealed, (1 << 20) - 1), Err(SealError::TooLarge((1 << 20) - 1)));
    assert_eq!(open(&sealed, 1 << 20).map(|opened| opened.len()), Ok(1 << 20));
    assert_eq!(open(&sealer.seal(Key(5), Column::Output, b"12345"), 4), Err(SealError::TooLarge(4)));
}

#[test]
fn what_a_frame_says_of_its_size_is_not_believed() {
    // A frame that says it holds four gigabytes, and one that does not say what it holds.
    let mut lying = zstd::bulk::compress(&[b'0'; 100_000], 1).expect("compressed");
    let said = lying.windows(4).position(|window| window == (100_000_u32).to_le_bytes()).expect("its size");
    lying[said..said + 4].copy_from_slice(&u32::MAX.to_le_bytes());
    let silent = zstd::stream::encode_all(&[b'0'; 100_000][..], 1).expect("compressed");
    for frame in [lying, silent] {
        let bare = [&record::plain(Column::Output, b"", false)[..], &frame].concat();
        let mut bare = bare.clone();
        bare[4] = 1;
        let sealer = Sealer::new(Ring { plain: true, ..Ring::new(Time(1)) }, &SealSettings::default());
        assert_eq!(sealer.open(Key(5), Column::Output, &bare, 1_000), Err(SealError::TooLarge(1_000)));
    }
}

#[test]
fn what_was_sealed_with_one_key_alone_opens_after_any_rotation() {
    let old = SealKey::new([0x2a; 32]);
    let key = DataKey::new(old.id, &[0x2a; 32]);
    let mut ring = Ring::around(&old, Time(3));
    let sealer = Sealer::new(ring.clone(), &SealSettings::default());
    let before = record::seal(&key, Key(5), Column::Logs, b"before", true, [1; record::NONCE]);
    let now = sealer.seal(Key(5), Column::Logs, b"now");
    let hash = sealer.name_hash("a name");
    ring.rotate(Time(4));
    sealer.take_up(ring.clone());
    let later = sealer.seal(Key(5), Column::Logs, b"later");
    let reloaded = Sealer::new(ring, &SealSettings::default());
    for (sealed, plain) in [(&before, &b"before"[..]), (&now, b"now"), (&later, b"later")] {
        assert_eq!(reloaded.open(Key(5), Column::Logs, sealed, LIMIT).as_deref(), Ok(plain));
    }
    assert_eq!(reloaded.name_hash("a name"), hash);
    let heads: Vec<Head> = [&before, &now, &later].map(|sealed| Head::read(sealed)).to_vec();
    assert!(heads[0] != heads[1] && heads[1] != heads[2], "{heads:?}");
}

#[test]
fn hexadecimal_text_goes_both_ways() {
    let bytes: Vec<u8> = (0..=255).collect();
    assert_eq!(unhex(&hex(&bytes)), Some(bytes));
    for bad in ["0", "0g", "é0"] {
        assert_eq!(unhex(bad), None, "{bad}");
    }
}
