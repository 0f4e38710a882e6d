//! The page's sections, each a function of the records.

use serde_json::Value;

use super::Records;
use super::svg::{self, Scale, Series, escape, short};

/// What `perf instructions` calls the sum of a packet's stages.
const ALL_STAGES: &str = "all stages";

/// The group of measurements that has a plot of its own.
const INSTRUCTIONS: &str = "instructions";

/// Colours of forwarders: the kernel grey, ours blue, others in the order they come.
fn colour(forwarder: &str, others: &[String]) -> usize {
    match forwarder {
        "kernel" => 0,
        "router" => 1,
        other => 2 + others.iter().position(|name| name == other).unwrap_or(0) % (svg::COLOURS - 2),
    }
}

fn word<'a>(line: &'a Value, field: &str) -> &'a str {
    line[field].as_str().unwrap_or_default()
}

fn number(line: &Value, field: &str) -> f64 {
    line[field].as_f64().unwrap_or(f64::NAN)
}

/// Names of a field in the order they come.
fn distinct<'a>(lines: impl IntoIterator<Item = &'a Value>, field: &str) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for line in lines {
        let name = word(line, field);
        if !names.iter().any(|known| known == name) {
            names.push(name.to_owned());
        }
    }
    names
}

fn section(title: &str, about: &str, body: &str, hint: &str) -> String {
    let body = match body.is_empty() {
        true => format!("<p class=\"soft\">Not measured yet: <code>{}</code>.</p>", escape(hint)),
        false => body.to_owned(),
    };
    format!("<h2>{}</h2><p class=\"soft\">{}</p>{body}", escape(title), escape(about))
}

fn card(title: &str, about: &str, plot: &str) -> String {
    match plot.is_empty() {
        true => String::new(),
        false => format!("<div class=\"card\"><h3>{}</h3><p>{}</p>{plot}</div>", escape(title), escape(about)),
    }
}

fn cards(all: &[String]) -> String {
    let all = all.concat();
    if all.is_empty() { all } else { format!("<div class=\"grid2\">{all}</div>") }
}

fn table(headings: &[&str], rows: &[Vec<String>]) -> String {
    if rows.is_empty() {
        return String::new();
    }
    // Columns of words, by their first row, stand to the left; of numbers to the right.
    let is_text = |column: usize| rows[0].get(column).is_some_and(|cell| cell.starts_with(char::is_alphabetic));
    let cells = |tag: &str, cells: &mut dyn Iterator<Item = &str>| {
        let class = |column| if is_text(column) { " class=\"text\"" } else { "" };
        let one = |(column, cell)| format!("<{tag}{}>{}</{tag}>", class(column), escape(cell));
        cells.enumerate().map(one).collect::<String>()
    };
    let head = cells("th", &mut headings.iter().copied());
    let body: String =
        rows.iter().map(|row| format!("<tr>{}</tr>", cells("td", &mut row.iter().map(String::as_str)))).collect();
    format!("<div class=\"wide card\"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>")
}

fn shown(value: f64, digits: usize) -> String {
    if value.is_finite() { format!("{value:.digits$}") } else { "–".to_owned() }
}

/// The figures that one would ask for first.
pub fn numbers(records: &Records) -> String {
    let first = |kind: &str, matches: &dyn Fn(&Value) -> bool| records.of(kind).iter().find(|line| matches(line));
    let of_router = |measure: &'static str| {
        move |line: &Value| {
            let is_asked = word(line, "bench") == measure && word(line, "measure") == measure;
            is_asked && word(line, "forwarder") == "router" && word(line, "varies") == "nothing"
        }
    };
    let mut all = Vec::new();
    let mut add = |value: String, unit: &str, about: String| {
        all.push(format!(
            "<div class=\"card number\"><b>{} <small>{}</small></b><span>{}</span></div>",
            escape(&value),
            escape(unit),
            escape(&about)
        ));
    };
    if let Some(line) = first("throughput", &of_router("mrr")) {
        let about = format!(
            "arrive at most, {}; {} × kernel forwarding",
            word(line, "size"),
            shown(number(line, "x_kernel"), 2)
        );
        add(shown(number(line, "mpps"), 2), "Mpps", about);
    }
    for measure in ["pdr", "ndr"] {
        if let Some(line) = first("throughput", &of_router(measure)) {
            let goal = if measure == "pdr" { "at most 0.5 % loss" } else { "no loss" };
            add(
                shown(number(line, "mpps"), 2),
                "Mpps",
                format!("with {goal} (MLRsearch); {} × kernel", shown(number(line, "x_kernel"), 2)),
            );
        }
    }
    let half = |line: &Value| word(line, "forwarder") == "router" && word(line, "load").starts_with("50");
    if let Some(line) = first("latency", &half) {
        add(shown(percentile(line, 99.0), 1), "µs", "one way at half of that load, 99 of 100 packets".to_owned());
    }
    if let Some(line) = records.of("reconf").first() {
        let about = format!(
            "blocked by {} swaps of all tables in {} trials; {} packets met half a change",
            line["swaps"], line["rounds"], line["mixed"]
        );
        add(shown(number(line, "blocked_us"), 0), "µs", about);
    }
    if all.is_empty() { String::new() } else { format!("<div class=\"numbers\">{}</div>", all.concat()) }
}

fn percentile(line: &Value, wanted: f64) -> f64 {
    let pairs = line["percentiles_us"].as_array();
    let found = pairs.into_iter().flatten().find(|pair| pair[0].as_f64() == Some(wanted));
    found.and_then(|pair| pair[1].as_f64()).unwrap_or(f64::NAN)
}

/// Points of the first place and of those that differ from it in one thing.
fn varying<'a>(lines: &[&'a Value], what: &str) -> Vec<&'a Value> {
    if !lines.iter().any(|line| word(line, "varies") == what) {
        return Vec::new();
    }
    lines.iter().copied().filter(|line| ["nothing", what].contains(&word(line, "varies"))).collect()
}

pub fn throughput(records: &Records) -> String {
    let lines: Vec<&Value> = records.of("throughput").iter().filter(|line| word(line, "bench") == "mrr").collect();
    let others = others(&lines);
    let by_size = varying(&lines, "size");
    let mut all = Vec::new();
    let categories = {
        let mut sizes: Vec<(f64, String)> = Vec::new();
        for line in &by_size {
            let size = (number(line, "bytes"), word(line, "size").to_owned());
            if !sizes.contains(&size) {
                sizes.push(size);
            }
        }
        sizes.sort_by(|one, other| one.0.total_cmp(&other.0));
        sizes.into_iter().map(|(_, name)| name).collect::<Vec<_>>()
    };
    for (title, field, unit, about) in [
        ("Packet size", "mpps", "Mpps", "Packets a second that arrive, while more are sent than can be forwarded"),
        ("Packet size, in bits", "gbits", "Gbit/s", "The same in bits on a wire"),
    ] {
        let series: Vec<_> = distinct(by_size.iter().copied(), "forwarder")
            .into_iter()
            .map(|name| {
                let value = |category: &String| {
                    let line = by_size
                        .iter()
                        .find(|line| word(line, "forwarder") == name && word(line, "size") == category)?;
                    line[field].as_f64()
                };
                let values = categories.iter().map(value).collect();
                (name.clone(), colour(&name, &others), values)
            })
            .collect();
        all.push(card(title, about, &svg::bars(title, unit, &categories, &series)));
    }
    for (what, title, about) in [
        ("rules", "Policy rules", "The last of so many rules decides, at both endpoints; kernel forwarding has none"),
        ("flows", "Flows", "Sent in turn, each packet of another one"),
        ("routes", "Routes", "Of other nodes, beside those of the two endpoints; kernel forwarding has none of them"),
    ] {
        let points = varying(&lines, what);
        let series: Vec<Series> = distinct(points.iter().copied(), "forwarder")
            .into_iter()
            .map(|name| {
                let mut places: Vec<(f64, f64)> = points
                    .iter()
                    .filter(|line| word(line, "forwarder") == name && line["mpps"].is_number())
                    .map(|line| (number(line, what).max(1.0), number(line, "mpps")))
                    .collect();
                places.sort_by(|one, other| one.0.total_cmp(&other.0));
                Series { colour: colour(&name, &others), name, points: places }
            })
            .collect();
        let plot = svg::lines(title, (what, Scale::Logarithmic, short), ("Mpps", Scale::Linear), &series);
        all.push(card(title, about, &plot));
    }
    let by_family = varying(&lines, "family");
    let families = distinct(by_family.iter().copied(), "family");
    let series: Vec<_> = distinct(by_family.iter().copied(), "forwarder")
        .into_iter()
        .map(|name| {
            let of = |family: &String| {
                by_family.iter().find(|line| word(line, "forwarder") == name && word(line, "family") == family)?["mpps"]
                    .as_f64()
            };
            (name.clone(), colour(&name, &others), families.iter().map(of).collect::<Vec<_>>())
        })
        .collect();
    all.push(card("Family", "The shortest packets of each", &svg::bars("Family", "Mpps", &families, &series)));
    let about = "Maximum receive rate from one endpoint to another. The tester has one core and the forwarder the other; the \
                 kernel, which has no threads of its own, forwards on the tester's.";
    section("Throughput", about, &cards(&all), "vrouter bench mrr")
}

fn others(lines: &[&Value]) -> Vec<String> {
    let names = distinct(lines.iter().copied(), "forwarder");
    names.into_iter().filter(|name| name != "kernel" && name != "router").collect()
}

pub fn searches(records: &Records) -> String {
    let lines = records.of("throughput").iter().filter(|line| ["ndr", "pdr"].contains(&word(line, "measure")));
    let rows: Vec<Vec<String>> = lines
        .map(|line| {
            let place = format!(
                "{}, {}, {} flows, {} rules",
                word(line, "size"),
                word(line, "family"),
                line["flows"],
                line["rules"]
            );
            let bounds = format!("{} – {}", shown(number(line, "lower_mpps"), 3), shown(number(line, "upper_mpps"), 3));
            vec![
                format!("{}, {}", word(line, "measure").to_uppercase(), word(line, "forwarder")),
                place,
                shown(number(line, "mpps"), 3),
                shown(number(line, "x_kernel"), 2),
                bounds,
                line["trials"].as_array().map_or(0, Vec::len).to_string(),
            ]
        })
        .collect();
    let about = "The highest load that meets a goal, by MLRsearch: no loss (NDR), or at most 0.5 % (PDR), in at least half of the \
                 time of the trials at that load. A packet that the tester could not send in time counts as lost.";
    section(
        "Without loss, and with little",
        about,
        &table(&["", "traffic", "Mpps", "× kernel", "bounds, Mpps", "trials"], &rows),
        "vrouter bench ndr; vrouter bench pdr",
    )
}

pub fn compared(records: &Records) -> String {
    let lines: Vec<&Value> = records.of("throughput").iter().filter(|line| word(line, "bench") == "compare").collect();
    let rows: Vec<Vec<String>> = lines
        .iter()
        .map(|line| match line["failure"].as_str() {
            Some(failure) => vec![word(line, "forwarder").to_owned(), format!("not measured: {failure}")],
            None => vec![
                word(line, "forwarder").to_owned(),
                shown(number(line, "mpps"), 3),
                shown(number(line, "x_kernel"), 2),
                shown(number(line, "own_ns"), 0),
                shown(number(line, "tester_ns"), 0),
            ],
        })
        .collect();
    let about = "Every forwarder in the same lab, in turn, round by round; medians. Nanoseconds of CPU time are for a packet that \
                 arrives: those of the forwarder's own threads, and those of the tester's core, where the kernel's receiving happens.";
    let others = others(&lines);
    let categories: Vec<String> = vec![String::new()];
    let bar = |line: &&Value| {
        let name = word(line, "forwarder").to_owned();
        let value = line["mpps"].as_f64();
        (name.clone(), colour(&name, &others), vec![value])
    };
    let series: Vec<_> = lines.iter().filter(|line| word(line, "varies") == "nothing").map(bar).collect();
    let plot = card("In one run", "Packets a second that arrive", &svg::bars("compared", "Mpps", &categories, &series));
    let body = format!("{}{}", cards(&[plot]), table(&["forwarder", "Mpps", "× kernel", "own ns", "tester ns"], &rows));
    section("Beside others", about, &body, "vrouter bench compare")
}

pub fn decided(records: &Records) -> String {
    let rows: Vec<Vec<String>> = records
        .of("decided")
        .iter()
        .map(|line| {
            let place = format!("{}, {} rules", word(line, "packets"), line["rules"]);
            match line["failure"].as_str() {
                Some(failure) => vec![place, word(line, "forwarder").to_owned(), format!("not measured: {failure}")],
                None => vec![
                    place,
                    word(line, "forwarder").to_owned(),
                    shown(number(line, "kpps"), 2),
                    shown(number(line, "x_best_kernel"), 1),
                    shown(number(line, "cpu_ns"), 0),
                ],
            }
        })
        .collect();
    let about = "No packet finds a decision that was made before: each is of a flow that has not been seen, or policy keeps no state. \
                 The kernel has the same rules in Calico's iptables and nftables layouts; the ratio is to the better of the two, \
                 round by round.";
    let headings = ["every packet", "forwarder", "kpps", "× best kernel", "CPU ns"];
    section("Every packet decided", about, &table(&headings, &rows), "vrouter bench decide")
}

pub fn latency(records: &Records) -> String {
    let lines: Vec<&Value> = records.of("latency").iter().filter(|line| word(line, "varies") == "nothing").collect();
    let mut all = Vec::new();
    for load in distinct(lines.iter().copied(), "load") {
        let series: Vec<Series> = lines
            .iter()
            .filter(|line| word(line, "load") == load)
            .map(|line| {
                let pairs = line["percentiles_us"].as_array().into_iter().flatten();
                let points = pairs.filter_map(|pair| {
                    let (percent, us) = (pair[0].as_f64()?, pair[1].as_f64()?);
                    (percent < 99.9995 && us > 0.0).then(|| (100.0 / (100.0 - percent), us))
                });
                let name = word(line, "forwarder");
                Series { name: name.to_owned(), colour: colour(name, &[]), points: points.collect() }
            })
            .collect();
        let rates: Vec<String> = lines
            .iter()
            .filter(|line| word(line, "load") == load && line["mpps"].is_number())
            .map(|line| format!("{} {} Mpps", word(line, "forwarder"), shown(number(line, "mpps"), 3)))
            .collect();
        let axis: (&str, Scale, svg::Tick) = ("percentile", Scale::Logarithmic, percent_of);
        let plot = svg::lines(&load, axis, ("µs", Scale::Logarithmic), &series);
        all.push(card(&load, &rates.join(", "), &plot));
    }
    let rows: Vec<Vec<String>> = lines
        .iter()
        .map(|line| {
            let mut row =
                vec![format!("{}, {}", word(line, "forwarder"), word(line, "load")), shown(number(line, "mpps"), 3)];
            row.extend([50.0, 99.0, 99.9, 99.99, 100.0].map(|percent| shown(percentile(line, percent), 1)));
            row.push(line["lost"].to_string());
            row
        })
        .collect();
    let about = "From the moment a packet is made to the moment it arrives, one way, without the ends' stacks; the idle ping-pong \
                 is a round trip between two sockets that block. The further right, the rarer.";
    let body = match all.is_empty() {
        true => String::new(),
        false => cards(&all) + &table(&["µs", "Mpps", "p50", "p99", "p99.9", "p99.99", "max", "lost"], &rows),
    };
    section("Latency", about, &body, "vrouter bench latency")
}

/// 1/(1-p) as a percentile.
fn percent_of(inverse: f64) -> String {
    let percent = 100.0 - 100.0 / inverse;
    let text = format!("{percent:.4}");
    format!("{}%", text.trim_end_matches('0').trim_end_matches('.'))
}

pub fn changes(records: &Records) -> String {
    let rows: Vec<Vec<String>> = records
        .of("reconf")
        .iter()
        .map(|line| {
            vec![
                format!("{}, {} rules, {} routes", word(line, "size"), line["rules"], line["routes"]),
                shown(number(line, "mpps"), 3),
                line["swaps"].to_string(),
                line["lost_without"].to_string(),
                line["lost_with"].to_string(),
                shown(number(line, "blocked_us"), 1),
                format!("{} / {}", shown(number(line, "p99_without_us"), 1), shown(number(line, "p99_with_us"), 1)),
                line["mixed"].to_string(),
            ]
        })
        .collect();
    let about = "A steady load while all tables are swapped, beside the same load without swaps. Effective blocked time is what was \
                 lost beyond that, by the rate. A packet that met half of a change would have gone where the gauge knows it.";
    let headings =
        ["", "Mpps", "swaps", "lost without", "lost with", "blocked µs", "p99 µs without / with", "met half a change"];
    section("Changes under load", about, &table(&headings, &rows), "vrouter bench reconf")
}

pub fn soak(records: &Records) -> String {
    let lines = records.of("soak");
    let series = |field: &'static str, name: &str, colour| Series {
        name: name.to_owned(),
        colour,
        points: lines.iter().map(|line| (number(line, "second"), number(line, field))).collect(),
    };
    let axis: (&str, Scale, svg::Tick) = ("seconds", Scale::Linear, short);
    let lost = svg::lines("lost", axis, ("packets", Scale::Linear), &[series("lost", "lost", 5)]);
    let memory = svg::lines("memory", axis, ("MB", Scale::Linear), &[series("memory_mb", "router and tester", 1)]);
    let all = [
        card("Lost", "In each second, of what was due", &lost),
        card("Memory", "Of the whole process, with the tester in it", &memory),
    ];
    let about = "A steady load at normal priority, on a machine that others use too.";
    section("For long", about, &cards(&all), "vrouter bench soak --duration 10m")
}

pub fn instructions(lines: &[Value]) -> String {
    // Their sum is a line of its own.
    let stages: Vec<String> = distinct(lines, "stage").into_iter().filter(|stage| stage != ALL_STAGES).collect();
    let rows: Vec<(String, Vec<f64>)> = distinct(lines, "scenario")
        .into_iter()
        .map(|scenario| {
            let of = |stage: &String| {
                let line = lines.iter().find(|line| word(line, "scenario") == scenario && word(line, "stage") == stage);
                line.and_then(|line| line["instructions_per_packet"].as_f64()).unwrap_or(0.0)
            };
            let pieces = stages.iter().map(of).collect();
            (scenario, pieces)
        })
        .collect();
    let plot = svg::stacked("instructions", "instructions", &stages, &rows);
    let about = "Instructions a packet takes in each stage, counted and not timed: they are the same on every run.";
    section(
        "Stages",
        about,
        &cards(&[card("Instructions a packet", "Counted by callgrind over the pipeline in memory", &plot)]),
        "the guard of instructions writes perf/baselines/instructions.jsonl",
    )
}

/// What `perf` has measured: of every figure the last.
pub fn measured(lines: &[Value]) -> String {
    let groups = distinct(lines, "group").into_iter().filter(|group| group != INSTRUCTIONS);
    let tables = groups.map(|group| {
        let own: Vec<&Value> = lines.iter().filter(|line| word(line, "group") == group).collect();
        let mut columns: Vec<&str> = Vec::new();
        for column in own.iter().filter_map(|line| line["numbers"].as_object()).flat_map(|numbers| numbers.keys()) {
            if !columns.contains(&column.as_str()) {
                columns.push(column);
            }
        }
        let names = distinct(own.iter().copied(), "name");
        let rows: Vec<Vec<String>> = names
            .into_iter()
            .filter_map(|name| {
                let line = own.iter().rev().find(|line| word(line, "name") == name)?;
                let cell = |column: &&str| significant(number(&line["numbers"], column));
                Some([name.clone()].into_iter().chain(columns.iter().map(cell)).collect())
            })
            .collect();
        let headings: Vec<&str> = [""].into_iter().chain(columns.iter().copied()).collect();
        format!("<h3>{}</h3>{}", escape(&group), table(&headings, &rows))
    });
    let body: String = tables.collect();
    let about =
        "Stages, tables, queues, workers and the daemon one by one; of what was measured more than once the last.";
    section("One by one", about, &body, "perf memory lpm idle scaling resident --out bench-results")
}

/// Four digits that count, and no fewer before the point.
fn significant(value: f64) -> String {
    let whole = value.abs().max(1.0).log10().floor() as usize;
    shown(value, 3usize.saturating_sub(whole))
}

pub fn facts(records: &Records) -> String {
    let mut body = String::new();
    for line in records.of("host") {
        let entry = |(name, value): (&String, &Value)| {
            let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            let text = if text == "null" { "unknown".to_owned() } else { text };
            format!("<dt>{}</dt><dd>{}</dd>", escape(&name.replace('_', " ")), escape(&text))
        };
        let shown =
            line.as_object().into_iter().flatten().filter(|(name, _)| !["record", "bench"].contains(&name.as_str()));
        body.push_str(&format!(
            "<div class=\"card\"><h3>{}</h3><dl>{}</dl></div>",
            escape(word(line, "bench")),
            shown.map(entry).collect::<String>()
        ));
    }
    let body = if body.is_empty() { body } else { format!("<div class=\"grid2\">{body}</div>") };
    section("Where and when", "Facts of the host at the start of each measurement.", &body, "vrouter bench mrr")
}
