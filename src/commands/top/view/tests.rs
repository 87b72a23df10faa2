use std::{env, fs, path::Path};

use ratatui::{
    Terminal,
    backend::TestBackend,
    buffer::Buffer,
    style::{Color, Modifier},
};

use super::*;
use crate::{
    commands::top::{
        state::{Event, Sockets},
        testing::{at, machine, press, refusal, status, unit},
    },
    units::selector::Users,
};

/// What the daemon says then.
const NOT_RECORDED: &str = "nothing is recorded: write `# scnpm: record refusals in inet filter CHAIN` into the file, with an empty \
                            chain that is called in front of the last `reject` or `drop`, and reload; see `man scnpm-denied`";

fn drawn(state: &State) -> Buffer {
    let (width, height) = state.size;
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| draw(state, frame)).unwrap();
    terminal.backend().buffer().clone()
}

fn lines(buffer: &Buffer) -> Vec<String> {
    let line = |y| {
        let mut x = 0;
        let mut line = String::new();
        while x < buffer.area.width {
            let symbol = buffer[(x, y)].symbol();
            line += symbol;
            x += u16::try_from(symbol.width().max(1)).unwrap();
        }
        line.trim_end().to_owned()
    };
    (0..buffer.area.height).map(line).collect()
}

/// What it looks like: a letter for each colour, large where it is bold, `-` dim, `#` reversed.
fn looks(buffer: &Buffer) -> Vec<String> {
    let letter = |x, y| {
        let cell = &buffer[(x, y)];
        let is = |modifier| cell.modifier.contains(modifier);
        let letter = match cell.fg {
            Color::Reset if is(Modifier::REVERSED) => '#',
            Color::Reset if is(Modifier::BOLD) => 'B',
            Color::Reset if is(Modifier::DIM) => '-',
            Color::Reset => ' ',
            Color::Red => 'r',
            Color::Green => 'g',
            Color::Yellow => 'y',
            Color::Cyan => 'c',
            other => panic!("{other} is none of ours"),
        };
        if is(Modifier::BOLD) { letter.to_ascii_uppercase() } else { letter }
    };
    let line = |y| (0..buffer.area.width).map(|x| letter(x, y)).collect::<String>().trim_end().to_owned();
    (0..buffer.area.height).map(line).collect()
}

/// Compares with tests/top/NAME.txt. `SCNPM_BLESS=1` writes it.
fn same(name: &str, lines: &[String]) {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/top").join(format!("{name}.txt"));
    let text = lines.join("\n") + "\n";
    if env::var_os("SCNPM_BLESS").is_some() {
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(&file, &text).unwrap();
    }
    let expected = fs::read_to_string(&file).unwrap_or_default();
    assert!(text == expected, "{name} is drawn otherwise:\n{text}");
}

#[test]
fn screens_are_as_reviewed() {
    for (width, height) in [(80, 24), (200, 50), (60, 14), (40, 10)] {
        same(&format!("{width}x{height}"), &lines(&drawn(&machine((width, height)))));
    }
    let size = (80, 24);
    same("colours", &looks(&drawn(&machine(size))));
    let after = |name: &str, keys: &str| {
        let mut state = machine(size);
        press(&mut state, keys);
        same(name, &lines(&drawn(&state)));
    };
    after("refusals", "\t\tj");
    after("allow", "\t\ta");
    after("help", "?");
    after("filter", "/fire");
    after("nothing-matches", "/xyz\n");
    after("annotation", "\t\tc");
    after("complaint", "a");
}

#[test]
fn screens_without_a_machine_say_what_to_do() {
    let empty = || State::new((80, 24), true, String::new());
    let take = |state: &mut State, event| drop(state.take(event, at(0)));
    let mut state = empty();
    take(&mut state, Event::Status(Box::new(status(vec![])), Users::new()));
    take(&mut state, Event::NoRefusals(NOT_RECORDED.to_owned()));
    take(&mut state, Event::Sockets(None));
    same("empty", &lines(&drawn(&state)));

    let mut state = machine((80, 24));
    take(
        &mut state,
        Event::Gone("the daemon does not run: start it with `systemctl start scnpm`".to_owned()),
    );
    let screen = drawn(&state);
    same("gone", &lines(&screen));
    assert!(screen[(0, 3)].modifier.contains(Modifier::DIM));

    let mut problem = status(vec![unit("a.service", None)]);
    problem.in_force = false;
    problem.problems = vec!["a.service: 1 of 2 elements are not in the kernel".to_owned(); 3];
    take(&mut state, Event::Status(Box::new(problem), Users::new()));
    take(&mut state, Event::NoRefusals("the daemon is of another version".to_owned()));
    same("problems", &lines(&drawn(&state)));
}

#[test]
fn without_colours_there_are_none() {
    let mut state = machine((80, 24));
    state.colour = false;
    for keys in ["", "\t", "\t", "a", "n?"] {
        press(&mut state, keys);
        let screen = drawn(&state);
        let is_plain = |cell: &ratatui::buffer::Cell| cell.fg == Color::Reset && cell.bg == Color::Reset;
        assert!(screen.content().iter().all(is_plain), "{keys}");
    }
}

#[test]
fn what_is_told_by_a_colour_is_told_by_words_too() {
    let mut state = machine((80, 24));
    let coloured = lines(&drawn(&state));
    state.colour = false;
    assert_eq!(lines(&drawn(&state)), coloured);
}

#[test]
fn hostile_names_stay_in_their_cells() {
    let names = [
        "\x1b[31mred\x1b]0;title\x07.service",
        "line\nbreak\r.service",
        "日本語日本語日本語日本語日本語日本語日本語日本語.service",
        "e\u{301}\u{301}\u{301}\u{301}.service",
        "\u{202e}right-to-left.service",
        "\u{200b}\u{200d}\u{feff}.service",
        "👩‍👩‍👧‍👦👩‍👩‍👧‍👦.service",
        "",
        &"x".repeat(5_000),
        "\0\u{9b}31m.service",
    ];
    for size in [(80, 24), (200, 50), (61, 15)] {
        let mut state = State::new(size, true, String::new());
        let units = names.iter().map(|name| unit(name, Some(1))).collect();
        let mut status = status(units);
        status.version = names[0].to_owned();
        status.in_force = false;
        status.problems = vec![names[0].to_owned()];
        status.allowances = vec![Allowance { number: 1, annotation: names[1].to_owned(), left_ms: 5 }];
        state.take(Event::Status(Box::new(status), Users::new()), at(0));
        let hostile = |name: &str| Refusal {
            protocol: name.to_owned(),
            host: Some(name.to_owned()),
            app: Some(name.to_owned()),
            annotation: Some(name.to_owned()),
            ..refusal(name, "2001:db8::1", 1)
        };
        state.take(Event::AllRefusals(names.map(hostile).into()), at(0));
        for keys in ["", "\t", "\t", "jjj", "a", "n", "c", "q/\x7f/日", "\n", "\t"] {
            press(&mut state, keys);
            state.take(Event::Answer(Err(names[1].to_owned())), at(0));
            let screen = drawn(&state);
            let is_clean = |cell: &ratatui::buffer::Cell| !cell.symbol().contains(char::is_control);
            assert!(screen.content().iter().all(is_clean), "{keys}");
            // What is at the right edge is still there: no name has moved it.
            let title = lines(&screen).into_iter().find(|line| line.contains("REFUSED")).unwrap_or_default();
            assert!(title.is_empty() || title.width() <= usize::from(size.0));
        }
        state.take(Event::Gone(names[0].to_owned()), at(0));
        state.take(Event::Output { title: names[1].to_owned(), text: names.join("\n\t") }, at(0));
        let screen = drawn(&state);
        assert!(screen.content().iter().all(|cell| !cell.symbol().contains(char::is_control)));
    }
}

#[test]
fn any_size_can_be_drawn() {
    for width in [0, 1, 2, 59, 60, 61, 109, 110, 139, 140, 300] {
        for height in [0, 1, 2, 13, 14, 15, 60] {
            let mut state = machine((80, 24));
            for keys in ["", "\t", "\t", "a", "n/abc", "\n?"] {
                press(&mut state, keys);
                state.take(Event::Resized(width, height), at(0));
                drawn(&state);
                state.take(Event::Resized(80, 24), at(0));
            }
        }
    }
}

#[test]
fn thousands_of_units_scroll() {
    let mut state = State::new((80, 24), true, String::new());
    let units = (0..5_000).map(|n| unit(&format!("unit-{n:04}.service"), None)).collect();
    state.take(Event::Status(Box::new(status(units)), Users::new()), at(0));
    state.take(Event::Sockets(Some([("a".parse().unwrap(), Sockets::default())].into())), at(0));
    press(&mut state, "jjG");
    let screen = lines(&drawn(&state));
    assert!(screen.iter().any(|line| line.starts_with("unit-4999.service")), "{screen:#?}");
    assert!(screen[1].starts_with("5000 units, 5000 running"), "{}", screen[1]);
    press(&mut state, "/77.s\n");
    let screen = lines(&drawn(&state));
    assert!(screen[3].starts_with("unit-0077.service"), "{screen:#?}");
    assert!(screen[4].starts_with("unit-0177.service"), "{screen:#?}");
}
