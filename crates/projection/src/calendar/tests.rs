use chrono::{FixedOffset, MappedLocalTime, NaiveDate, NaiveDateTime};

use super::*;

fn time(text: &str) -> DateTime<Utc> {
    text.parse().unwrap()
}

/// The next times of a calendar, as the engine counts them.
fn times(mut calendar: Calendar, begin: &str, count: usize) -> Vec<String> {
    let begin = time(begin);
    calendar.count_from(begin);
    let mut now = Time::ZERO;
    let next = || {
        now = calendar.next_after(now).unwrap();
        let time = begin + TimeDelta::from_std(now).unwrap();
        time.format("%d %H:%M:%S").to_string()
    };
    std::iter::repeat_with(next).take(count).collect()
}

fn parse(pattern: &str) -> Calendar {
    Calendar::parse(pattern).unwrap()
}

#[test]
fn patterns_mean_what_cron_means() {
    let begin = "2026-01-30T12:34:56.5Z";
    for (pattern, wanted) in [
        ("0 3 * * *", ["31 03:00:00", "01 03:00:00"]),
        ("*/20 * * * *", ["30 12:40:00", "30 13:00:00"]),
        ("30 4 1 * *", ["01 04:30:00", "01 04:30:00"]),
        ("0 0 * * MON", ["02 00:00:00", "09 00:00:00"]),
        ("*/30 * * * * *", ["30 12:35:00", "30 12:35:30"]),
    ] {
        assert_eq!(times(parse(pattern), begin, 2), wanted, "{pattern}");
    }
    // Behind a time is not at it.
    assert_eq!(
        times(parse("0 3 * * *"), "2026-01-30T03:00:00Z", 1),
        ["31 03:00:00"]
    );
}

#[test]
fn what_is_no_pattern_is_refused() {
    for pattern in [
        "",
        "nightly",
        "* * * *",
        "61 * * * *",
        "0 3 * * FUN",
        "0 0 30 2 *",
    ] {
        let error = Calendar::parse(pattern).unwrap_err();
        assert_eq!(error.what(), "cron pattern", "{pattern}");
    }
    let never = Calendar::parse("0 0 30 2 *").unwrap_err();
    assert_eq!(never.reason(), "its time never comes");
}

#[test]
fn a_zone_moves_the_times() {
    let east = FixedOffset::east_opt(3_600).unwrap();
    let calendar = parse("0 3 * * *").in_zone(east);
    assert_eq!(
        times(calendar, "2026-01-30T01:59:59Z", 2),
        ["30 02:00:00", "31 02:00:00"]
    );
}

/// A zone like that of Berlin in 2026: its clocks go forward at 1:00 UTC on March 29th and back at
/// 1:00 UTC on October 25th.
#[derive(Debug, Clone, Copy)]
struct Berlin;

fn hours(hours: i32) -> FixedOffset {
    FixedOffset::east_opt(hours * 3_600).unwrap()
}

fn changes() -> [NaiveDateTime; 2] {
    [(3, 29), (10, 25)].map(|(month, day)| {
        let day = NaiveDate::from_ymd_opt(2026, month, day).unwrap();
        day.and_hms_opt(1, 0, 0).unwrap()
    })
}

impl TimeZone for Berlin {
    type Offset = FixedOffset;

    fn from_offset(_: &FixedOffset) -> Self {
        Self
    }

    fn offset_from_local_date(&self, date: &NaiveDate) -> MappedLocalTime<FixedOffset> {
        self.offset_from_local_datetime(&date.and_hms_opt(12, 0, 0).unwrap())
    }

    fn offset_from_local_datetime(&self, local: &NaiveDateTime) -> MappedLocalTime<FixedOffset> {
        let fits = |offset: &FixedOffset| {
            let utc = *local - TimeDelta::seconds(i64::from(offset.local_minus_utc()));
            self.offset_from_utc_datetime(&utc) == *offset
        };
        match [hours(2), hours(1)].map(|offset| Some(offset).filter(fits)) {
            [Some(first), Some(second)] => MappedLocalTime::Ambiguous(first, second),
            [Some(only), None] | [None, Some(only)] => MappedLocalTime::Single(only),
            [None, None] => MappedLocalTime::None,
        }
    }

    fn offset_from_utc_date(&self, date: &NaiveDate) -> FixedOffset {
        self.offset_from_utc_datetime(&date.and_hms_opt(12, 0, 0).unwrap())
    }

    fn offset_from_utc_datetime(&self, utc: &NaiveDateTime) -> FixedOffset {
        let [forward, back] = changes();
        hours(if (forward..back).contains(utc) { 2 } else { 1 })
    }
}

#[test]
fn when_clocks_go_forward_a_time_that_is_left_out_runs_right_behind() {
    let begin = "2026-03-28T12:00:00Z";
    let nightly = parse("30 2 * * *").in_zone(Berlin);
    assert_eq!(times(nightly, begin, 2), ["29 01:00:00", "30 00:30:00"]);
    let hourly = parse("30 * * * *").in_zone(Berlin);
    assert_eq!(
        times(hourly, "2026-03-29T00:00:00Z", 3),
        ["29 00:30:00", "29 01:30:00", "29 02:30:00"]
    );
}

#[test]
fn when_clocks_go_back_a_time_that_comes_twice_runs_once() {
    let begin = "2026-10-24T12:00:00Z";
    let nightly = parse("30 2 * * *").in_zone(Berlin);
    assert_eq!(times(nightly, begin, 2), ["25 00:30:00", "26 01:30:00"]);
    let hourly = parse("30 * * * *").in_zone(Berlin);
    assert_eq!(
        times(hourly, "2026-10-25T00:00:00Z", 3),
        ["25 00:30:00", "25 01:30:00", "25 02:30:00"]
    );
}
