use std::process::{Command, Output};

fn torture(arguments: &[&str]) -> (Output, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_torture"))
        .args(arguments)
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout.clone()).unwrap();
    println!("{text}{}", String::from_utf8_lossy(&output.stderr));
    let last = text.lines().last().unwrap_or_default().to_owned();
    (output, last)
}

/// The number behind a word of the last line.
fn number(line: &str, word: &str) -> u64 {
    let mut words = line
        .split([' ', ',', ':'])
        .skip_while(|other| *other != word);
    words.nth(1).unwrap().parse().unwrap()
}

#[test]
fn nothing_is_lost_repeated_or_reordered() {
    // Other tests may take the processors for longer than the server takes to end a frozen client.
    let (output, last) = torture(&["--seconds", "20", "--longest-wait", "20"]);
    assert!(output.status.success(), "{last}");
    for (word, least) in [
        ("events", 100),
        ("faults", 20),
        ("stored", 50),
        ("refused", 10),
    ] {
        assert!(number(&last, word) >= least, "{word} in {last}");
    }
    assert_eq!(number(&last, "subscribers"), 3);
    for word in ["lost", "repeated", "reordered"] {
        assert_eq!(number(&last, word), 0, "{word} in {last}");
    }
}

#[test]
fn a_saboteur_is_found() {
    let (output, last) = torture(&["--seconds", "4", "--sabotage", "identity"]);
    assert_eq!(output.status.code(), Some(1), "{last}");
    assert!(number(&last, "lost") > 0, "{last}");
}
