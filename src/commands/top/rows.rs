//! The columns of the lists, what is in them, and how many lines each list has. Pure.

use std::{borrow::Cow, cmp::Ordering};

use super::{state::Sockets, words::short};
use crate::{
    control::message::{Refusal, Unit},
    model::{Direction, printable},
    report::status::ago,
};

/// From so many columns of the screen on there is room for all of ours.
pub(super) const WIDE: u16 = 110;

/// What `?` shows.
pub(super) const HELP: &str = "\
Above are the units that annotations apply to, below what was refused in the
last hour; between them what is allowed for a while, if anything is.

Up Down j k         a line up or down
PgUp PgDn Home End  a page up or down; the first line, the last line
Tab                 the next list
s or >, <           sort by the next column (marked *), by the one before
r                   sort the other way round (marked ^)
/                   only lines with this text in them; Esc: all again
Enter or e          scnpm explain of the selected unit or refusal; sends nothing
a                   allow for 5 minutes what was refused, after a question
u                   end what is allowed for a while
c                   show the annotation, and copy it to the terminal's clipboard
Ctrl-L              redraw the screen
q or Ctrl-C         end

STATE           running; or what is wrong: elements that are not in the kernel
                (missing), or annotations that nft refuses (rejected)
CONN, LISTEN    sockets of the unit's cgroups that are connected, that listen
PKT/S, BYTES/S  what is decided by annotations that are counted: those with
PACKETS, BYTES  `# scnpm: count` in front of them
REFUSED         packets that were refused, to the unit or from it
";

/// What is said below an annotation that was copied.
pub(super) const ABOUT_COPIES: &str = "\
This line was sent to the terminal's clipboard, too; not all terminals take it.
Put it into the file of the policy, try it with `scnpm check FILE`, and load it with `scnpm reload`.";

/// A line of the list of units.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct UnitRow {
    /// The unit or selector.
    pub(super) name: String,
    /// The same for a terminal.
    pub(super) shown: String,
    pub(super) running: bool,
    pub(super) cgroups: usize,
    pub(super) due: usize,
    pub(super) in_kernel: usize,
    pub(super) missing: usize,
    /// Annotations that nft or the kernel refuses.
    pub(super) rejected: usize,
    pub(super) sockets: Option<Sockets>,
    /// Per second.
    pub(super) packet_rate: Option<u64>,
    pub(super) byte_rate: Option<u64>,
    pub(super) packets: Option<u64>,
    pub(super) bytes: Option<u64>,
    /// Packets that were refused.
    pub(super) refusals: Option<u64>,
    /// Where its annotations stand.
    pub(super) places: Vec<String>,
}

impl UnitRow {
    pub(super) fn of(unit: &Unit) -> Self {
        Self {
            name: unit.name.clone(),
            shown: printable(&unit.name),
            running: unit.running,
            cgroups: unit.cgroups,
            due: unit.due,
            in_kernel: unit.in_kernel,
            missing: unit.missing,
            rejected: unit.refused,
            sockets: None,
            packet_rate: None,
            byte_rate: None,
            packets: unit.packets,
            bytes: unit.bytes,
            refusals: None,
            places: unit.annotations.iter().map(|place| printable(&place.to_string())).collect(),
        }
    }

    pub(super) fn is_wrong(&self) -> bool {
        self.missing > 0 || self.rejected > 0
    }

    fn state(&self) -> String {
        match (self.rejected, self.missing, self.running) {
            (0, 0, true) => "running".to_owned(),
            (0, 0, false) => "-".to_owned(),
            (0, missing, _) => format!("{} missing", short(missing as u64)),
            (rejected, ..) => format!("{} rejected", short(rejected as u64)),
        }
    }

    /// What is wrong first, then what runs.
    fn rank(&self) -> (bool, bool) {
        (self.is_wrong(), self.running)
    }
}

/// A column: what is above it, how wide it is, and whether only wide screens have it.
pub(super) trait Column: Copy + 'static {
    fn title(self) -> &'static str;
    /// On a screen of so many columns; none takes what the others leave.
    fn width(self, screen: u16) -> Option<u16>;
    fn is_for_wide(self) -> bool;
    fn is_number(self) -> bool;
}

/// The places of those columns that a screen of this width has.
pub(super) fn shown<C: Column>(all: &[C], width: u16) -> Vec<usize> {
    (0..all.len()).filter(|place| width >= WIDE || !all[*place].is_for_wide()).collect()
}

/// Columns of units.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum UnitColumn {
    Unit,
    State,
    Cgroups,
    InKernel,
    Connected,
    Listening,
    PacketRate,
    ByteRate,
    Packets,
    Bytes,
    Refused,
}

impl UnitColumn {
    pub(super) const ALL: [Self; 11] = [
        Self::Unit,
        Self::State,
        Self::Cgroups,
        Self::InKernel,
        Self::Connected,
        Self::Listening,
        Self::PacketRate,
        Self::ByteRate,
        Self::Packets,
        Self::Bytes,
        Self::Refused,
    ];

    /// What is most comes first, names in their order.
    pub(super) fn compare(self, one: &UnitRow, other: &UnitRow) -> Ordering {
        match self {
            Self::Unit => one.shown.cmp(&other.shown),
            Self::State => other.rank().cmp(&one.rank()),
            _ => self.number(other).cmp(&self.number(one)),
        }
    }

    fn number(self, row: &UnitRow) -> Option<u64> {
        match self {
            Self::Unit | Self::State => None,
            Self::Cgroups => Some(row.cgroups as u64),
            Self::InKernel => Some(row.in_kernel as u64),
            Self::Connected => row.sockets.map(|sockets| sockets.connected),
            Self::Listening => row.sockets.map(|sockets| sockets.listening),
            Self::PacketRate => row.packet_rate,
            Self::ByteRate => row.byte_rate,
            Self::Packets => row.packets,
            Self::Bytes => row.bytes,
            Self::Refused => row.refusals,
        }
    }

    pub(super) fn cell(self, row: &UnitRow) -> Cow<'_, str> {
        match self {
            Self::Unit => Cow::Borrowed(&row.shown),
            Self::State => row.state().into(),
            Self::InKernel => format!("{}/{}", row.in_kernel, row.due).into(),
            _ => self.number(row).map_or_else(|| "-".into(), |number| short(number).into()),
        }
    }
}

impl Column for UnitColumn {
    fn title(self) -> &'static str {
        match self {
            Self::Unit => "UNIT",
            Self::State => "STATE",
            Self::Cgroups => "CGROUPS",
            Self::InKernel => "IN KERNEL",
            Self::Connected => "CONN",
            Self::Listening => "LISTEN",
            Self::PacketRate => "PKT/S",
            Self::ByteRate => "BYTES/S",
            Self::Packets => "PACKETS",
            Self::Bytes => "BYTES",
            Self::Refused => "REFUSED",
        }
    }

    fn width(self, _screen: u16) -> Option<u16> {
        match self {
            Self::Unit => None,
            Self::State | Self::InKernel => Some(11),
            Self::Connected | Self::PacketRate | Self::Bytes => Some(6),
            _ => Some(8),
        }
    }

    fn is_for_wide(self) -> bool {
        matches!(self, Self::Cgroups | Self::InKernel | Self::Listening | Self::Packets)
    }

    fn is_number(self) -> bool {
        !matches!(self, Self::Unit | Self::State)
    }
}

/// Columns of refusals.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RefusalColumn {
    Ago,
    Packets,
    Unit,
    Way,
    Address,
    Host,
    Protocol,
    Port,
}

impl RefusalColumn {
    pub(super) const ALL: [Self; 8] = [
        Self::Ago,
        Self::Packets,
        Self::Unit,
        Self::Way,
        Self::Address,
        Self::Host,
        Self::Protocol,
        Self::Port,
    ];

    /// What is newest or most comes first, names in their order.
    pub(super) fn compare(self, one: &Refusal, other: &Refusal) -> Ordering {
        match self {
            Self::Ago => other.at.cmp(&one.at),
            Self::Packets => other.packets.cmp(&one.packets),
            Self::Unit => name(one).cmp(&name(other)),
            Self::Way => one.direction.cmp(&other.direction),
            Self::Address => one.address.cmp(&other.address),
            Self::Host => one.host.cmp(&other.host),
            Self::Protocol => one.protocol.cmp(&other.protocol),
            Self::Port => (one.port, one.icmp_type).cmp(&(other.port, other.icmp_type)),
        }
    }

    /// `now` is in microseconds since 1970.
    pub(super) fn cell(self, refusal: &Refusal, now: u64) -> String {
        match self {
            Self::Ago => ago(now.saturating_sub(refusal.at)),
            Self::Packets => short(refusal.packets),
            Self::Unit => name(refusal),
            Self::Way => way(refusal.direction).to_owned(),
            Self::Address => refusal.address.to_string(),
            Self::Host => refusal.host.as_deref().map_or_else(|| "-".to_owned(), printable),
            Self::Protocol => printable(&refusal.protocol),
            Self::Port => match (refusal.port, refusal.icmp_type) {
                (Some(port), _) => port.to_string(),
                (None, Some(number)) => format!("type {number}"),
                (None, None) => "-".to_owned(),
            },
        }
    }
}

impl Column for RefusalColumn {
    fn title(self) -> &'static str {
        match self {
            Self::Ago => "LAST",
            Self::Packets => "REFUSED",
            Self::Unit => "UNIT",
            Self::Way => "WAY",
            Self::Address => "ADDRESS",
            Self::Host => "HOST",
            Self::Protocol => "PROTO",
            Self::Port => "PORT",
        }
    }

    fn width(self, screen: u16) -> Option<u16> {
        /// From here on any address is whole.
        const WIDER: u16 = 140;
        match (self, screen) {
            (Self::Unit, _) => None,
            (Self::Ago | Self::Packets | Self::Port, _) => Some(7),
            (Self::Way, _) => Some(4),
            (Self::Protocol, _) => Some(5),
            (Self::Address, 0..70) => Some(12),
            (Self::Address, 70..WIDE) => Some(22),
            (Self::Address, WIDE..WIDER) => Some(26),
            (Self::Address, WIDER..) => Some(39),
            (Self::Host, 0..WIDER) => Some(20),
            (Self::Host, WIDER..) => Some(32),
        }
    }

    fn is_for_wide(self) -> bool {
        self == Self::Host
    }

    fn is_number(self) -> bool {
        matches!(self, Self::Ago | Self::Packets | Self::Port)
    }
}

/// What a refusal's unit is called.
pub(super) fn name(refusal: &Refusal) -> String {
    refusal.unit.as_deref().map_or_else(|| format!("(cgroup {}, gone)", refusal.cgroup_id), printable)
}

pub(super) fn way(direction: Direction) -> &'static str {
    match direction {
        Direction::Out => "to",
        Direction::In => "from",
    }
}

/// What a filter looks for in a refusal.
pub(super) fn searched(refusal: &Refusal) -> String {
    let port = RefusalColumn::Port.cell(refusal, 0);
    let host = refusal.host.as_deref().map(printable).unwrap_or_default();
    let app = refusal.app.as_deref().map(printable).unwrap_or_default();
    format!("{} {} {host} {} {port} {app}", name(refusal), refusal.address, printable(&refusal.protocol))
}

/// How many lines each list has, headings apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Heights {
    pub(super) units: usize,
    pub(super) allowances: usize,
    pub(super) refusals: usize,
}

impl Heights {
    /// What is never part of a list: two lines at the top, two headings, two lines about what is selected, one of keys.
    const OTHERS: usize = 7;
    /// More allowances than these have to be scrolled.
    const ALLOWANCES: usize = 4;

    /// On a screen of so many lines; each list takes what the others leave, half of it at least if it needs that.
    pub(super) fn of(screen: u16, units: usize, allowances: usize, refusals: usize) -> Self {
        let allowances = allowances.min(Self::ALLOWANCES).min(usize::from(screen) / 8);
        let heading = usize::from(allowances > 0);
        let room = usize::from(screen).saturating_sub(Self::OTHERS + allowances + heading);
        let half = room / 2;
        let below = refusals.max(3).min(half.max(room.saturating_sub(units.max(1))));
        Self { units: room - below, allowances, refusals: below }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_share_the_screen() {
        let heights = |screen, units, allowances, refusals| {
            let Heights { units, allowances, refusals } = Heights::of(screen, units, allowances, refusals);
            (units, allowances, refusals)
        };
        assert_eq!(heights(24, 100, 0, 100), (9, 0, 8));
        assert_eq!(heights(24, 3, 0, 100), (3, 0, 14));
        assert_eq!(heights(24, 100, 0, 0), (14, 0, 3));
        assert_eq!(heights(24, 100, 9, 100), (7, 3, 6));
        assert_eq!(heights(14, 100, 9, 100), (3, 1, 2));
        assert_eq!(heights(50, 100, 9, 5), (33, 4, 5));
    }

    #[test]
    fn columns_leave_room_for_names() {
        fn rest<C: Column>(all: &[C], width: u16) -> u16 {
            let shown = shown(all, width);
            let fixed: u16 = shown.iter().filter_map(|place| all[*place].width(width)).sum();
            width - fixed - u16::try_from(shown.len()).unwrap() + 1
        }
        for (width, least) in [(60, 8), (80, 20), (WIDE, 20), (200, 90)] {
            let rest = [rest(&UnitColumn::ALL, width), rest(&RefusalColumn::ALL, width)];
            assert!(rest.into_iter().all(|rest| rest >= least), "{width}: {rest:?}");
        }
    }
}
