//! When which name is to be looked up. Pure: the caller says what time it is.

use std::{collections::BTreeSet, time::Duration};

use litemap::LiteMap;

/// How long an answer is taken for true at first.
const FIRST_PERIOD: Duration = Duration::from_secs(300);

/// The shortest time after which a name is asked for again: half of the last one for each change.
const SHORTEST_PERIOD: Duration = Duration::from_secs(30);

/// The longest, reached by half as much again for each answer that is as it was.
pub const LONGEST_PERIOD: Duration = Duration::from_secs(3600);

/// The pause after a look-up that failed; each following one is twice as long.
const FIRST_PAUSE: Duration = Duration::from_secs(1);

/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(300);

/// What a look-up came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The first answer, or another one than the last.
    Changed,
    /// The same answer as the last.
    Unchanged,
    /// None that will do: try again soon.
    Failed,
    /// One that holds until all are asked anew.
    Settled,
}

/// The names that are wanted, and when to look each of them up.
#[derive(Debug, Clone)]
pub struct Schedule<N> {
    turns: LiteMap<N, Turn>,
    /// What is being looked up, wanted or not.
    asked: Vec<N>,
    most: usize,
}

#[derive(Debug, Clone)]
struct Turn {
    /// When it is due, unless it is being looked up or settled.
    due: Option<Duration>,
    /// `None` before the first answer.
    period: Option<Duration>,
    pause: Duration,
    /// Whether to look it up once more after the look-up that is under way: what that says may be of before.
    again: bool,
    has_outcome: bool,
}

impl<N: Ord + Clone> Schedule<N> {
    /// Without names; `most` look-ups at a time.
    pub fn new(most: usize) -> Self {
        Self { turns: LiteMap::new(), asked: Vec::new(), most }
    }

    /// From `now` on these names are wanted, and no others. New ones are due at once.
    pub fn want(&mut self, now: Duration, names: BTreeSet<N>) {
        self.turns.retain(|name, _| names.contains(name));
        for name in names {
            if self.turns.contains_key(&name) {
                continue;
            }
            let due = (!self.asked.contains(&name)).then_some(now);
            let turn = Turn { due, period: None, pause: FIRST_PAUSE, again: false, has_outcome: false };
            self.turns.insert(name, turn);
        }
    }

    /// All names are due at once; those that are being looked up, once more.
    pub fn ask_anew(&mut self, now: Duration) {
        for (name, turn) in &mut self.turns {
            turn.pause = FIRST_PAUSE;
            turn.again = self.asked.contains(name);
            turn.due = (!turn.again).then_some(now);
        }
    }

    /// The names to look up at `now`, of which [`Self::answered`] is to be told each.
    pub fn due(&mut self, now: Duration) -> Vec<N> {
        let mut names = Vec::new();
        while self.asked.len() < self.most
            && let Some((at, name)) = self.first()
            && at <= now
        {
            let name = name.clone();
            if let Some(turn) = self.turns.get_mut(&name) {
                turn.due = None;
            }
            self.asked.push(name.clone());
            names.push(name);
        }
        names
    }

    /// The name that is due first.
    fn first(&self) -> Option<(Duration, &N)> {
        self.turns.iter().filter_map(|(name, turn)| Some((turn.due?, name))).min()
    }

    /// When [`Self::due`] has something, unless an answer comes first.
    pub fn timeout(&self) -> Option<Duration> {
        self.first().filter(|_| self.asked.len() < self.most).map(|(at, _)| at)
    }

    /// A look-up is over. Whether its name is wanted.
    pub fn answered(&mut self, now: Duration, name: &N, outcome: Outcome) -> bool {
        self.asked.retain(|asked| asked != name);
        let Some(turn) = self.turns.get_mut(name) else { return false };
        turn.has_outcome = true;
        let after = match outcome {
            Outcome::Failed => {
                let longer = (turn.pause * 2).min(LONGEST_PAUSE);
                Some(std::mem::replace(&mut turn.pause, longer))
            }
            Outcome::Settled => None,
            Outcome::Changed | Outcome::Unchanged => {
                let period = match turn.period {
                    None => FIRST_PERIOD,
                    Some(last) if outcome == Outcome::Changed => (last / 2).max(SHORTEST_PERIOD),
                    Some(last) => (last * 3 / 2).min(LONGEST_PERIOD),
                };
                turn.period = Some(period);
                Some(period)
            }
        };
        if outcome != Outcome::Failed {
            turn.pause = FIRST_PAUSE;
        }
        let after = if std::mem::take(&mut turn.again) { Some(Duration::ZERO) } else { after };
        turn.due = after.map(|after| now + after);
        true
    }

    /// Whether each wanted name was looked up, successfully or not.
    pub fn is_complete(&self) -> bool {
        self.turns.values().all(|turn| turn.has_outcome)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn seconds(number: u64) -> Duration {
        Duration::from_secs(number)
    }

    /// The times between look-ups of one name, in seconds, whose outcomes are these.
    fn times(outcomes: &[Outcome]) -> Vec<u64> {
        let mut schedule = Schedule::new(1);
        let mut now = seconds(100);
        schedule.want(now, ["a"].into());
        let mut times = Vec::new();
        for outcome in outcomes {
            assert_eq!(schedule.due(now), ["a"]);
            assert_eq!((schedule.due(now), schedule.timeout()), (vec![], None), "one look-up at a time");
            schedule.answered(now, &"a", *outcome);
            let Some(next) = schedule.timeout() else { break };
            assert_eq!(schedule.due(next - Duration::from_nanos(1)), [] as [&str; 0]);
            times.push((next - now).as_secs());
            now = next;
        }
        times
    }

    #[test]
    fn answers_that_change_are_asked_for_more_often() {
        use Outcome::{Changed, Unchanged};
        assert_eq!(times(&[Changed; 6]), [300, 150, 75, 37, 30, 30]);
        assert_eq!(times(&[Changed, Unchanged, Unchanged, Changed]), [300, 450, 675, 337]);
        assert_eq!(times(&[Unchanged; 9])[6..], [3417, 3600, 3600]);
    }

    #[test]
    fn failures_back_off_and_leave_the_period_as_it_is() {
        use Outcome::{Changed, Failed, Unchanged};
        assert_eq!(times(&[Failed; 11]), [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300]);
        assert_eq!(times(&[Changed, Failed, Failed, Unchanged, Failed]), [300, 1, 2, 450, 1]);
    }

    #[test]
    fn settled_name_rests_until_all_are_asked_anew() {
        assert_eq!(times(&[Outcome::Settled]), [] as [u64; 0]);
        let mut schedule = Schedule::new(2);
        schedule.want(seconds(1), ["a", "b"].into());
        assert!(!schedule.is_complete());
        assert_eq!(schedule.due(seconds(1)), ["a", "b"]);
        schedule.answered(seconds(2), &"a", Outcome::Settled);
        schedule.ask_anew(seconds(3));
        assert_eq!(schedule.due(seconds(3)), ["a"]);
        assert!(schedule.answered(seconds(4), &"b", Outcome::Settled));
        assert!(schedule.is_complete());
        assert_eq!(schedule.due(seconds(4)), ["b"], "what was asked before is asked once more");
    }

    #[test]
    fn name_that_is_not_wanted_is_not_asked_for_and_its_answer_is_nobodys() {
        let mut schedule = Schedule::new(2);
        schedule.want(seconds(1), ["a", "b"].into());
        schedule.due(seconds(1));
        schedule.want(seconds(2), ["b", "c"].into());
        assert_eq!(schedule.due(seconds(2)), [] as [&str; 0], "two look-ups are under way");
        assert!(!schedule.answered(seconds(3), &"a", Outcome::Changed));
        assert_eq!(schedule.due(seconds(3)), ["c"]);
    }

    #[derive(Debug, Clone)]
    enum Step {
        Want(BTreeSet<u8>),
        Anew,
        Ask,
        Answer(usize, Outcome),
        Pass(u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        let outcome = prop_oneof![
            Just(Outcome::Changed),
            Just(Outcome::Unchanged),
            Just(Outcome::Failed),
            Just(Outcome::Settled)
        ];
        prop_oneof![
            proptest::collection::btree_set(0..6_u8, 0..6).prop_map(Step::Want),
            Just(Step::Anew),
            Just(Step::Ask),
            (0..8_usize, outcome).prop_map(|(which, outcome)| Step::Answer(which, outcome)),
            (0..4000_u64).prop_map(Step::Pass),
        ]
    }

    proptest! {
        #[test]
        fn no_name_is_forgotten_or_asked_twice(steps in proptest::collection::vec(step(), 1..60)) {
            let mut schedule = Schedule::new(3);
            let (mut now, mut wanted) = (seconds(1), BTreeSet::new());
            let mut asked: Vec<u8> = Vec::new();
            let (mut settled, mut again) = (BTreeSet::new(), BTreeSet::new());
            for step in steps {
                match step {
                    Step::Want(names) => {
                        settled.retain(|name| names.contains(name));
                        again.retain(|name| names.contains(name));
                        schedule.want(now, names.clone());
                        wanted = names;
                    }
                    Step::Anew => {
                        schedule.ask_anew(now);
                        settled.clear();
                        again = asked.iter().copied().filter(|name| wanted.contains(name)).collect();
                    }
                    Step::Ask => {
                        for name in schedule.due(now) {
                            prop_assert!(wanted.contains(&name) && !asked.contains(&name));
                            asked.push(name);
                        }
                        prop_assert!(asked.len() <= 3);
                    }
                    Step::Answer(which, outcome) => {
                        if asked.is_empty() { continue }
                        let name = asked.swap_remove(which % asked.len());
                        prop_assert_eq!(schedule.answered(now, &name, outcome), wanted.contains(&name));
                        let is_settled = !again.remove(&name) && outcome == Outcome::Settled;
                        if is_settled && wanted.contains(&name) { settled.insert(name); } else { settled.remove(&name); }
                    }
                    Step::Pass(time) => now += seconds(time),
                }
                let waits = |name: &&u8| !asked.contains(name) && !settled.contains(*name);
                let waiting: BTreeSet<u8> = wanted.iter().filter(waits).copied().collect();
                let due = |(name, turn): (&u8, &Turn)| Some((turn.due?, *name));
                let queued: BTreeSet<(Duration, u8)> = schedule.turns.iter().filter_map(due).collect();
                prop_assert!(queued.iter().all(|(at, _)| *at <= now + LONGEST_PERIOD));
                let queued: BTreeSet<u8> = queued.into_iter().map(|(_, name)| name).collect();
                prop_assert_eq!(&queued, &waiting);
                prop_assert_eq!(schedule.timeout().is_some(), asked.len() < 3 && !waiting.is_empty());
            }
        }
    }
}
