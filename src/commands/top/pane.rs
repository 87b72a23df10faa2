//! A list on the screen: its order, what is selected, and which lines of it are in view. Pure.

/// Keeps the line that was selected selected, wherever it comes to stand.
#[derive(Debug, Clone, Default)]
pub(super) struct Pane<K> {
    /// The numbers of the lines that are shown, in their order.
    pub(super) order: Vec<usize>,
    /// The place of the selected one in it.
    pub(super) cursor: usize,
    /// The first place that is in view.
    pub(super) top: usize,
    /// The number of the column that it is sorted by.
    pub(super) column: usize,
    /// Whether it is sorted the other way round.
    pub(super) is_reversed: bool,
    /// What was selected by hand. Before anything was, the first line is, whichever that is.
    chosen: Option<K>,
}

/// Where to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Move {
    By(isize),
    Pages(isize),
    First,
    Last,
}

impl<K: PartialEq> Pane<K> {
    pub(super) fn sorted_by(column: usize) -> Self {
        Self { order: Vec::new(), cursor: 0, top: 0, column, is_reversed: false, chosen: None }
    }

    /// The number of the selected line.
    pub(super) fn selected(&self) -> Option<usize> {
        self.order.get(self.cursor).copied()
    }

    /// Shows other lines, or in another order; `key` is what tells a line from others.
    pub(super) fn reorder(&mut self, order: Vec<usize>, key: impl Fn(usize) -> K) {
        self.order = order;
        let place =
            self.chosen.as_ref().and_then(|chosen| self.order.iter().position(|line| key(*line) == *chosen));
        self.cursor = match (place, &self.chosen) {
            (Some(place), _) => place,
            (None, Some(_)) => self.cursor.min(self.order.len().saturating_sub(1)),
            (None, None) => 0,
        };
    }

    /// Selects another line; `page` lines are in view.
    pub(super) fn go(&mut self, to: Move, page: usize, key: impl Fn(usize) -> K) {
        let last = self.order.len().saturating_sub(1);
        let page = isize::try_from(page.saturating_sub(1).max(1)).unwrap_or(isize::MAX);
        self.cursor = match to {
            Move::By(lines) => self.cursor.saturating_add_signed(lines).min(last),
            Move::Pages(pages) => self.cursor.saturating_add_signed(pages.saturating_mul(page)).min(last),
            Move::First => 0,
            Move::Last => last,
        };
        self.chosen = self.selected().filter(|_| to != Move::First).map(key);
    }

    /// Moves what is in view, of so many lines, to where the selected line is.
    pub(super) fn scroll(&mut self, page: usize) {
        let highest = self.order.len().saturating_sub(page);
        let lowest = (self.cursor + 1).saturating_sub(page);
        self.top = self.top.min(highest).clamp(lowest, self.cursor.max(lowest));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pane(lines: usize) -> Pane<usize> {
        let mut pane = Pane::sorted_by(0);
        pane.reorder((0..lines).collect(), |line| line);
        pane
    }

    #[test]
    fn selected_line_stays_selected() {
        let mut pane = pane(5);
        pane.reorder(vec![4, 3, 2, 1, 0], |line| line);
        assert_eq!(pane.selected(), Some(4), "none was chosen yet");
        pane.go(Move::By(1), 3, |line| line);
        pane.reorder(vec![0, 1, 2, 3], |line| line);
        assert_eq!((pane.selected(), pane.cursor), (Some(3), 3));
        pane.reorder(vec![0, 1], |line| line);
        assert_eq!(pane.selected(), Some(1), "the chosen one is gone");
        pane.reorder(vec![], |line| line);
        assert_eq!(pane.selected(), None);
        pane.go(Move::Last, 3, |line| line);
        assert_eq!(pane.selected(), None);
    }

    #[test]
    fn selected_line_is_in_view() {
        let mut pane = pane(100);
        for (to, cursor, top) in [
            (Move::By(9), 9, 0),
            (Move::By(1), 10, 1),
            (Move::Pages(1), 19, 10),
            (Move::Last, 99, 90),
            (Move::By(1), 99, 90),
            (Move::Pages(-1), 90, 90),
            (Move::By(-1), 89, 89),
            (Move::First, 0, 0),
            (Move::By(-1), 0, 0),
        ] {
            pane.go(to, 10, |line| line);
            pane.scroll(10);
            assert_eq!((pane.cursor, pane.top), (cursor, top), "{to:?}");
        }
        pane.go(Move::Last, 10, |line| line);
        pane.scroll(40);
        assert_eq!(pane.top, 60, "a larger view is filled");
        pane.scroll(0);
        assert_eq!(pane.top, 100);
    }
}
