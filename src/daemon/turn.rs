//! One turn of the loop: each source is asked once, and takes no more than its share of what it has. So whatever one of
//! them has, nobody waits for longer than a turn.

use std::{
    future::poll_fn,
    task::{Context, Poll},
};

/// Something that the loop listens to. Takes what there is, up to a share of its own, or has the task woken when there is
/// something.
pub(super) type Source<'a, News> = &'a mut dyn FnMut(&mut Context<'_>) -> Poll<News>;

/// Asks each source once, in their order, and waits if none has anything, unless there is work to do meanwhile. Dropping
/// the future loses nothing.
pub(super) async fn turn<News>(sources: &mut [Source<'_, News>], waits: bool) -> Vec<News> {
    // The runtime looks at signals, timers and files only while the loop pauses.
    tokio::task::yield_now().await;
    poll_fn(|cx| {
        let mut news = Vec::new();
        for source in &mut *sources {
            if let Poll::Ready(some) = source(cx) {
                news.push(some);
            }
        }
        if news.is_empty() && waits { Poll::Pending } else { Poll::Ready(news) }
    })
    .await
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, process::Command, time::Duration};

    use proptest::prelude::*;
    use tokio::{
        signal::unix::{SignalKind, signal},
        sync::mpsc,
        time,
    };

    use super::*;

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
    }

    /// More turns than anything may take to be heard of.
    const MANY: usize = 10_000;

    #[test]
    fn a_source_that_always_has_something_keeps_nobody_from_being_heard() {
        runtime().block_on(async {
            let mut usr1 = signal(SignalKind::user_defined1()).unwrap();
            let mut interval = time::interval(Duration::from_millis(1));
            let (sender, mut receiver) = mpsc::channel(1);
            // A task of the same runtime, as the one that listens to D-Bus.
            tokio::spawn(async move { while sender.send(()).await.is_ok() {} });
            let own = std::process::id().to_string();
            assert!(Command::new("kill").args(["-USR1", &own]).status().unwrap().success());
            let mut heard: BTreeMap<&str, usize> = BTreeMap::new();
            for _ in 0..MANY {
                let news = turn(
                    &mut [
                        &mut |_| Poll::Ready("flood"),
                        &mut |cx| usr1.poll_recv(cx).map(|_| "signal"),
                        &mut |cx| receiver.poll_recv(cx).map(|_| "task"),
                        &mut |cx| interval.poll_tick(cx).map(|_| "timer"),
                    ],
                    true,
                )
                .await;
                news.into_iter().for_each(|name| *heard.entry(name).or_default() += 1);
                if heard.len() == 4 && heard["timer"] > 1 && heard["task"] > 1 {
                    return;
                }
            }
            panic!("{heard:?}");
        });
    }

    #[test]
    fn work_to_do_is_not_waited_with() {
        runtime().block_on(async {
            let nothing = turn::<()>(&mut [&mut |_| Poll::Pending], false).await;
            assert_eq!(nothing, []);
            let mut nobody = |_: &mut Context<'_>| Poll::Pending;
            let mut sources: [Source<'_, ()>; 1] = [&mut nobody];
            assert!(time::timeout(Duration::from_millis(1), turn(&mut sources, true)).await.is_err());
        });
    }

    proptest! {
        /// Whatever the others have, what a source has is taken in as many turns as it takes by itself.
        #[test]
        fn everybody_is_served_in_each_turn(work in prop::collection::vec(0_usize..20, 1..8)) {
            runtime().block_on(async {
                let mut left = work.clone();
                for turns in 1..=work.iter().copied().max().unwrap() {
                    let mut polls: Vec<_> = left
                        .iter_mut()
                        .map(|left| move |_: &mut Context<'_>| match left.checked_sub(1) {
                            Some(rest) => { *left = rest; Poll::Ready(()) }
                            None => Poll::Pending,
                        })
                        .collect();
                    let mut sources: Vec<Source<'_, ()>> = Vec::new();
                    sources.extend(polls.iter_mut().map(|poll| poll as Source<'_, ()>));
                    turn(&mut sources, true).await;
                    drop(sources);
                    drop(polls);
                    let expected: Vec<usize> = work.iter().map(|all| all.saturating_sub(turns)).collect();
                    assert_eq!(left, expected);
                }
            });
        }
    }
}
