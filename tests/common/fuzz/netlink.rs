//! What holds of all that nfnetlink may send: as notifications, and as answers to each request.
//!
//! An input is datagrams, each with its length in front, in two bytes, the low one first. Each request has the number 1,
//! if it is a transaction of one change the numbers 1 and 2.

use std::{
    io::{self, ErrorKind},
    net::{IpAddr, Ipv4Addr},
};

use scnpm::{
    model::{CgroupId, ChainRef, Family, PREFIX, SetRef, TableRef},
    nft::{
        Change, ElementChange, Interest, Recording,
        monitor::Heard,
        netlink::{Netlink, Wire},
    },
};

use super::frames;

const ERROR: u16 = 2;
const NEW_GENERATION: u16 = 10 << 8 | 15;
const THREADS: [u32; 3] = [0, 1, 1000];

/// Panics if something does not hold. How many answers and changes there were.
pub fn check(input: &[u8]) -> usize {
    let datagrams = frames(input);
    check_monitor(&datagrams) + check_answers(&datagrams)
}

/// A message, as this file reads it.
#[derive(Clone, Copy)]
struct Message<'a> {
    whole: &'a [u8],
    kind: u16,
    seq: u32,
    /// The number behind the header, if there is room for one.
    number: i32,
}

/// The kernel, which answers whatever it is asked with the same datagrams.
struct Kernel<'a>(std::slice::Iter<'a, &'a [u8]>);

impl Wire for Kernel<'_> {
    fn send(&mut self, request: &[u8]) -> io::Result<()> {
        let length: usize = messages(request).iter().map(|message| message.whole.len()).sum();
        assert_eq!(length, request.len(), "a request of whole messages");
        Ok(())
    }

    fn receive(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let datagram = self.0.next().ok_or(ErrorKind::TimedOut)?;
        let length = datagram.len().min(buffer.len());
        buffer[..length].copy_from_slice(&datagram[..length]);
        Ok(length)
    }
}

fn check_monitor(datagrams: &[&[u8]]) -> usize {
    let all: Vec<Message> = datagrams.iter().flat_map(|datagram| messages(datagram)).collect();
    let apart: Vec<&[u8]> = all.iter().map(|message| message.whole).collect();
    let together: Vec<u8> = apart.iter().flat_map(|message| padded(message)).collect();
    let has_prefix = contains(datagrams, PREFIX.as_bytes());
    let mut heard = 0;
    for own in THREADS {
        let change = changes(own, &interest(), datagrams);
        assert_eq!(change, changes(own, &interest(), &apart), "each message by itself");
        assert_eq!(change, changes(own, &interest(), &[&together]), "all messages at once");
        let recording = recorded(own, datagrams);
        assert_eq!(recording, recorded(own, &apart), "each message by itself");
        assert_eq!(recording, recorded(own, &[&together]), "all messages at once");
        if let Some(recording) = recording {
            assert!(recording.objects <= all.len());
            let _ = Netlink::over(Kernel(datagrams.iter())).repeat(1, &recording, &[]);
        }
        assert!(!change.overflow);
        if let Some((name, thread)) = &change.by {
            assert_ne!(*thread, own);
            assert!(all.iter().any(|message| message.kind == NEW_GENERATION));
            assert!(name == "a process" || contains(datagrams, name.as_bytes()));
        }
        for chain in &change.renamed {
            assert!(!chain.name.starts_with(PREFIX) && contains(datagrams, chain.name.as_bytes()));
            assert!(has_prefix, "only chains of ours are renamed");
        }
        let without = changes(own, &Interest::default(), datagrams);
        assert!(without.by.is_none() || change.by.is_some(), "who is interested in more hears more");
        assert!(without.by.is_none() || has_prefix);
        assert_eq!(without.renamed, change.renamed);
        heard += usize::from(change.by.is_some());
    }
    heard
}

/// A message as it stands in front of another, which begins at a multiple of four bytes (`NLMSG_ALIGN`).
fn padded(message: &[u8]) -> Vec<u8> {
    let mut padded = message.to_vec();
    padded.resize(message.len().next_multiple_of(4), 0);
    padded
}

fn changes(own: u32, interest: &Interest, datagrams: &[&[u8]]) -> Change {
    let (mut heard, mut change) = (Heard::by(own), Change::default());
    datagrams.iter().for_each(|datagram| heard.take(datagram, interest, &mut change));
    change
}

/// How many objects the thread 1000 made, if what it made can be recorded.
pub fn recorded_objects(input: &[u8]) -> Option<usize> {
    recorded(1000, &frames(input)).map(|recording| recording.objects)
}

/// What the thread `own` made, as requests.
fn recorded(own: u32, datagrams: &[&[u8]]) -> Option<Recording> {
    let mut heard = Heard::by(own);
    heard.record();
    datagrams.iter().for_each(|datagram| heard.take(datagram, &interest(), &mut Change::default()));
    heard.recorded()
}

fn check_answers(datagrams: &[&[u8]]) -> usize {
    let all: Vec<Message> = datagrams.iter().flat_map(|datagram| messages(datagram)).collect();
    let netlink = || Netlink::over(Kernel(datagrams.iter()));
    let generation = netlink().generation();
    if let Ok(generation) = &generation {
        assert!(all.iter().any(|message| message.kind == NEW_GENERATION && message.seq == 1));
        assert!(contains(datagrams, &generation.id.to_be_bytes()));
        assert!(contains(datagrams, &generation.thread.to_be_bytes()));
    }
    let tables = netlink().tables();
    for found in tables.iter().flatten() {
        assert!(contains(datagrams, found.table.name.as_bytes()));
    }
    assert!(tables.as_ref().map_or(0, Vec::len) <= all.len());
    let elements = netlink().elements(&set());
    for (id, _) in elements.iter().flatten() {
        assert!(contains(datagrams, &id.0.to_ne_bytes()));
    }
    assert!(elements.iter().flatten().all(|(_, has_mark)| !has_mark) || contains(datagrams, b"scnpm\0"));
    let is_of_cgroups = netlink().is_set_of_cgroups(&set());
    let id = Some(CgroupId(7));
    let added = netlink().change(&[ElementChange::Add { set: &set(), id, data: None }]);
    check_outcome(&all, 1..=2, &added);
    let deleted = netlink().change(&[ElementChange::Delete { set: &set(), id }]);
    check_outcome(&all, 1..=2, &deleted);
    let all_of_them = (IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V4(Ipv4Addr::BROADCAST));
    let filled = netlink().fill(&set(), true, &[all_of_them]);
    check_outcome(&all, 1..=3, &filled);
    let surroundings = netlink().surroundings(&[table()].into());
    let answers =
        [said(generation), said(tables), said(elements), said(is_of_cgroups), said(added), said(deleted)];
    answers.into_iter().chain([said(filled), said(surroundings)]).filter(|is_answer| *is_answer).count()
}

/// What is acknowledged was done, and what is refused was refused by the kernel.
fn check_outcome(all: &[Message], batch: std::ops::RangeInclusive<u32>, outcome: &io::Result<()>) {
    let mut answers = all.iter().filter(|message| message.kind == ERROR && batch.contains(&message.seq));
    match outcome {
        Ok(()) => {
            let refusal_or_end =
                answers.find(|answer| answer.number != 0 || answer.seq == *batch.end()).expect("an answer");
            assert_eq!((refusal_or_end.number, refusal_or_end.seq), (0, *batch.end()));
        }
        Err(error) => match error.raw_os_error() {
            Some(number) => assert!(answers.any(|answer| answer.number == number.wrapping_neg())),
            None => assert_eq!(error.kind(), ErrorKind::TimedOut),
        },
    }
}

/// Whether the kernel answered at all. There are words for each error.
fn said<T>(outcome: io::Result<T>) -> bool {
    outcome.map_or_else(
        |error| {
            assert!(!error.to_string().is_empty());
            error.raw_os_error().is_some()
        },
        |_| true,
    )
}

fn set() -> SetRef {
    SetRef { table: table(), name: "allowed".into() }
}

fn table() -> TableRef {
    TableRef { family: Family::Inet, name: "filter".into() }
}

fn interest() -> Interest {
    let chain = ChainRef { table: table(), name: "output".into() };
    Interest { chains: [chain].into(), sets: [set()].into() }
}

/// The whole messages of a datagram, up to the first that is none.
fn messages(mut datagram: &[u8]) -> Vec<Message<'_>> {
    let mut found = Vec::new();
    while datagram.len() >= 16 {
        let length = u32::from_ne_bytes(datagram[..4].try_into().unwrap()) as usize;
        if !(16..=datagram.len()).contains(&length) {
            break;
        }
        let end = length.next_multiple_of(4).min(datagram.len());
        found.push(Message {
            whole: &datagram[..end],
            kind: u16::from_ne_bytes(datagram[4..6].try_into().unwrap()),
            seq: u32::from_ne_bytes(datagram[8..12].try_into().unwrap()),
            number: datagram[16..length].first_chunk().map_or(0, |bytes| i32::from_ne_bytes(*bytes)),
        });
        datagram = &datagram[end..];
    }
    found
}

fn contains(datagrams: &[&[u8]], bytes: &[u8]) -> bool {
    bytes.is_empty()
        || datagrams.iter().any(|datagram| datagram.windows(bytes.len()).any(|window| window == bytes))
}
