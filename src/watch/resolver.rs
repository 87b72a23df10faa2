//! Names to what they stand for, apart from the loop: the names of hosts and of users. Whoever answers may be slow, or hang.

use std::{
    collections::BTreeSet,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use litemap::LiteMap;
use tokio::{
    sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
    time::{timeout, timeout_at},
};

use super::schedule::{LONGEST_PERIOD, Outcome, Schedule};

/// How many look-ups may be under way. Each is a thread; one that hangs is one less.
const MOST: usize = 8;

/// What a look-up said of a name, or why it failed.
pub type Answer<N, A> = (N, Result<A, String>);

/// What looks a name up, in a thread of its own.
pub type LookUp<N, A> = Arc<dyn Fn(&N) -> Result<A, String> + Send + Sync>;

/// Asks for names.
pub struct Resolver<N, A> {
    schedule: Schedule<N>,
    last: LiteMap<N, A>,
    look_up: LookUp<N, A>,
    outcome: fn(&A) -> Outcome,
    sender: UnboundedSender<Answer<N, A>>,
    answers: UnboundedReceiver<Answer<N, A>>,
    started: Instant,
}

impl<N, A> Resolver<N, A>
where
    N: Ord + Clone + Send + 'static,
    A: PartialEq + Clone + Send + 'static,
{
    /// A resolver that asks for nothing yet. `outcome` says what an answer comes to if it is another than the last.
    pub fn new(look_up: LookUp<N, A>, outcome: fn(&A) -> Outcome) -> Self {
        let (sender, answers) = unbounded_channel();
        Self {
            schedule: Schedule::new(MOST),
            last: LiteMap::new(),
            look_up,
            outcome,
            sender,
            answers,
            started: Instant::now(),
        }
    }

    /// Asks for these names, and no longer for any others.
    pub fn want(&mut self, names: BTreeSet<N>) {
        self.last.retain(|name, _| names.contains(name));
        self.schedule.want(self.started.elapsed(), names);
    }

    /// Asks for all names anew.
    pub fn ask_anew(&mut self) {
        self.schedule.ask_anew(self.started.elapsed());
    }

    /// The next answer that is not what the last one was, or why there is none. Nothing is lost when it is dropped before.
    pub async fn next(&mut self) -> Answer<N, A> {
        loop {
            for name in self.schedule.due(self.started.elapsed()) {
                self.start(name);
            }
            let due = self.schedule.timeout().unwrap_or(Duration::MAX);
            let pause = due.saturating_sub(self.started.elapsed()).min(LONGEST_PERIOD);
            let answer = timeout(pause, self.answers.recv()).await.ok().flatten();
            if let Some(news) = answer.and_then(|(name, answer)| self.take(name, answer)) {
                return news;
            }
        }
    }

    /// The answers to the first look-up of each name, as far as they come within this time.
    pub async fn first_answers(&mut self, limit: Duration) -> Vec<Answer<N, A>> {
        let end = tokio::time::Instant::now() + limit;
        let mut answers = Vec::new();
        while !self.schedule.is_complete()
            && let Ok(answer) = timeout_at(end, self.next()).await
        {
            answers.push(answer);
        }
        answers
    }

    fn start(&self, name: N) {
        let (look_up, sender) = (Arc::clone(&self.look_up), self.sender.clone());
        let asked = name.clone();
        let work = move || {
            let answer = look_up(&asked);
            drop(sender.send((asked, answer)));
        };
        // Not one of tokio's: the end of its runtime would wait for it.
        if let Err(error) = thread::Builder::new().name("look-up".to_owned()).spawn(work) {
            drop(self.sender.send((name, Err(error.to_string()))));
        }
    }

    /// What is new in an answer.
    fn take(&mut self, name: N, answer: Result<A, String>) -> Option<Answer<N, A>> {
        let is_new = answer.as_ref().is_ok_and(|answer| self.last.get(&name) != Some(answer));
        let outcome = match answer.as_ref().map(self.outcome) {
            Err(_) => Outcome::Failed,
            Ok(Outcome::Changed) if !is_new => Outcome::Unchanged,
            Ok(outcome) => outcome,
        };
        let is_wanted = self.schedule.answered(self.started.elapsed(), &name, outcome);
        if let Ok(answer) = &answer
            && is_wanted
        {
            self.last.insert(name.clone(), answer.clone());
        }
        (is_wanted && (is_new || answer.is_err())).then_some((name, answer))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
        mpsc,
    };

    use super::*;

    fn names(names: &[&'static str]) -> BTreeSet<&'static str> {
        names.iter().copied().collect()
    }

    #[tokio::test]
    async fn name_that_hangs_holds_up_no_other_and_not_its_asker() {
        let (end, ended) = mpsc::channel::<()>();
        let (ended, asked) = (Mutex::new(ended), Arc::new(AtomicUsize::new(0)));
        let count = Arc::clone(&asked);
        let look_up = move |name: &&str| {
            count.fetch_add(1, Ordering::SeqCst);
            if *name == "hangs" {
                let _ = ended.lock().map(|ended| ended.recv());
            }
            Ok(name.len())
        };
        let mut resolver = Resolver::new(Arc::new(look_up), |_| Outcome::Changed);
        resolver.want(names(&["hangs", "works"]));
        assert_eq!(resolver.first_answers(Duration::from_millis(100)).await, [("works", Ok(5))]);
        resolver.ask_anew();
        let nothing = timeout(Duration::from_millis(100), resolver.next()).await;
        assert!(nothing.is_err(), "the same answer is no news");
        assert_eq!(asked.load(Ordering::SeqCst), 3, "what hangs is asked for once");
        drop(end);
        assert_eq!(resolver.next().await, ("hangs", Ok(5)));
    }

    #[tokio::test]
    async fn look_ups_that_hang_are_bounded() {
        let (end, ended) = mpsc::channel::<()>();
        let (ended, asked) = (Mutex::new(ended), Arc::new(AtomicUsize::new(0)));
        let count = Arc::clone(&asked);
        let look_up = move |name: &usize| {
            count.fetch_add(1, Ordering::SeqCst);
            let _ = ended.lock().map(|ended| ended.recv());
            Ok(*name)
        };
        let mut resolver = Resolver::new(Arc::new(look_up), |_| Outcome::Settled);
        resolver.want((0..100).collect());
        assert_eq!(resolver.first_answers(Duration::from_millis(100)).await, []);
        assert_eq!(asked.load(Ordering::SeqCst), MOST);
        drop(end);
        assert_eq!(resolver.first_answers(Duration::from_secs(60)).await.len(), 100);
    }

    #[tokio::test]
    async fn last_answer_is_news_once_and_a_failure_always() {
        let answers = Mutex::new(vec![Err("gone".to_owned()), Ok(Some(1)), Ok(None)]);
        let look_up =
            move |_: &&str| answers.lock().map_or(Ok(Some(1)), |mut all| all.pop().unwrap_or(Ok(Some(1))));
        let outcome =
            |answer: &Option<i32>| if answer.is_some() { Outcome::Settled } else { Outcome::Failed };
        let mut resolver = Resolver::new(Arc::new(look_up), outcome);
        resolver.want(names(&["a"]));
        assert_eq!(resolver.next().await, ("a", Ok(None)));
        assert_eq!(resolver.next().await, ("a", Ok(Some(1))), "asked again by itself");
        resolver.ask_anew();
        assert_eq!(resolver.next().await, ("a", Err("gone".to_owned())));
        resolver.want(names(&[]));
        resolver.want(names(&["a"]));
        assert_eq!(resolver.next().await, ("a", Ok(Some(1))), "a name that was away is a new one");
    }
}
