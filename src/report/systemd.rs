//! What systemd-report(1) is told: the answers of the interface io.systemd.Metrics. Pure.

use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::metrics::{Family, Kind, Sample, families};
use crate::control::{
    METRICS, METRICS_DESCRIPTION,
    message::{Call, Status},
    wire,
};

/// systemd-report takes no metric whose name does not begin with that of the socket.
const PREFIX: &str = "io.scnpm.";

/// The answers to a call; there is no status if the daemon cannot be asked.
pub fn answers(call: &Call, status: impl FnOnce() -> Option<Status>) -> Vec<Arc<[u8]>> {
    let Some(method) = call.method.strip_prefix(METRICS).and_then(|rest| rest.strip_prefix('.')) else {
        return vec![wire::of_a_service(call, METRICS, METRICS_DESCRIPTION)];
    };
    let is_known = ["List", "Describe"].contains(&method);
    match call.parameters.keys().next() {
        _ if !is_known => vec![wire::unknown(&call.method)],
        Some(parameter) => vec![wire::invalid(parameter)],
        None if !call.more => vec![wire::expected_more()],
        None => replies(&if method == "List" { list(status()) } else { describe() }),
    }
}

fn replies(all: &[Value]) -> Vec<Arc<[u8]>> {
    all.iter().enumerate().map(|(number, one)| wire::reply(one, number + 1 < all.len())).collect()
}

fn list(status: Option<Status>) -> Vec<Value> {
    let all = all(status.as_ref());
    all.iter().flat_map(|family| family.samples.iter().map(|sample| metric(family, sample))).collect()
}

fn describe() -> Vec<Value> {
    let kind = |family: &Family| match family.kind {
        Kind::Counter => "counter",
        Kind::Gauge => "gauge",
        Kind::Info => "string",
    };
    let describe =
        |family: &Family| json!({ "name": name(family), "description": family.help, "type": kind(family) });
    all(Some(&Status::default())).iter().map(describe).collect()
}

fn all(status: Option<&Status>) -> Vec<Family> {
    let up = Family::up(status.is_some());
    std::iter::once(up).chain(status.map(families).unwrap_or_default()).collect()
}

fn metric(family: &Family, sample: &Sample) -> Value {
    let mut metric = Map::new();
    metric.insert("name".to_owned(), name(family).into());
    let mut labels = sample.labels.iter();
    let about = labels.next().map(|(_, value)| value.clone());
    if family.kind == Kind::Info {
        metric.insert("value".to_owned(), about.into());
        return metric.into();
    }
    let value = serde_json::from_str(&sample.value).unwrap_or(Value::Null);
    metric.insert("value".to_owned(), value);
    metric.extend(about.map(|about| ("object".to_owned(), about.into())));
    let mut fields = Map::new();
    fields.extend(labels.map(|(name, value)| ((*name).to_owned(), value.clone().into())));
    if !fields.is_empty() {
        metric.insert("fields".to_owned(), fields.into());
    }
    metric.into()
}

/// A name as systemd has them: `scnpm_unit_bytes` is `io.scnpm.UnitBytes`.
fn name(family: &Family) -> String {
    let words = family.name.split('_').skip(1);
    let capital = |word: &str| {
        let (first, rest) = word.split_at(word.len().min(1));
        first.to_ascii_uppercase() + rest
    };
    words.fold(PREFIX.to_owned(), |name, word| name + &capital(word))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::message::{Source, Unit};

    fn call(method: &str, more: bool) -> Call {
        Call { method: method.to_owned(), parameters: Map::new(), more, oneway: false, upgrade: false }
    }

    fn told(call: &Call, status: Option<Status>) -> Vec<Value> {
        let messages = answers(call, || status);
        messages.iter().map(|one| serde_json::from_slice(one.strip_suffix(&[0]).unwrap()).unwrap()).collect()
    }

    fn status() -> Status {
        Status {
            version: "1.0".to_owned(),
            sources: vec![Source { name: "cgroup".to_owned(), median_us: Some(340), ..Source::default() }],
            units: vec![Unit {
                name: "alice:app:a\"\n".to_owned(),
                packets: Some(u64::MAX),
                ..Unit::default()
            }],
            ..Status::default()
        }
    }

    #[test]
    fn metrics_are_told_one_by_one() {
        let told = told(&call("io.systemd.Metrics.List", true), Some(status()));
        let (last, others) = told.split_last().unwrap();
        assert!(others.iter().all(|one| one["continues"] == json!(true)) && last.get("continues").is_none());
        let of = |name: &str| {
            let mut of_name = told.iter().map(|one| &one["parameters"]).filter(|one| one["name"] == name);
            of_name.next().unwrap_or_else(|| panic!("{name}")).clone()
        };
        assert_eq!(of("io.scnpm.Up"), json!({ "name": "io.scnpm.Up", "value": 1 }));
        assert_eq!(of("io.scnpm.Build"), json!({ "name": "io.scnpm.Build", "value": "1.0" }));
        let name = "io.scnpm.UnitPackets";
        assert_eq!(of(name), json!({ "name": name, "object": "alice:app:a\"\n", "value": u64::MAX }));
        let name = "io.scnpm.SourceMedianLatencySeconds";
        assert_eq!(of(name), json!({ "name": name, "object": "cgroup", "value": 0.00034 }));
    }

    #[test]
    fn users_and_applications_are_fields() {
        let units = vec![Unit { name: "alice:app:mail".to_owned(), ..Unit::default() }];
        let told = told(&call("io.systemd.Metrics.List", true), Some(Status { units, ..Status::default() }));
        let running =
            told.iter().map(|one| &one["parameters"]).find(|one| one["name"] == "io.scnpm.UnitRunning");
        let fields = json!({ "user": "alice", "app": "mail" });
        let expected = json!({ "name": "io.scnpm.UnitRunning", "object": "alice:app:mail", "fields": fields, "value": 0 });
        assert_eq!(running, Some(&expected));
    }

    #[test]
    fn each_metric_is_described() {
        let describe = told(&call("io.systemd.Metrics.Describe", true), None);
        let described = |name: &Value| describe.iter().any(|one| one["parameters"]["name"] == *name);
        for one in told(&call("io.systemd.Metrics.List", true), Some(status())) {
            assert!(described(&one["parameters"]["name"]), "{one}");
        }
        let bytes = json!({
            "name": "io.scnpm.UnitBytes",
            "description": "Bytes that counted annotations of the unit decided.",
            "type": "counter",
        });
        assert!(describe.iter().any(|one| one["parameters"] == bytes), "{describe:?}");
    }

    #[test]
    fn daemon_that_cannot_be_asked_is_down() {
        let up = json!({ "name": "io.scnpm.Up", "value": 0 });
        assert_eq!(told(&call("io.systemd.Metrics.List", true), None), [json!({ "parameters": up })]);
    }

    #[test]
    fn wrong_calls_are_answered_with_an_error() {
        let error = |call: &Call| told(call, None)[0]["error"].as_str().unwrap_or_default().to_owned();
        let list = call("io.systemd.Metrics.List", true);
        let with = Map::from_iter([("x".to_owned(), json!(1))]);
        for (call, expected) in [
            (call("io.systemd.Metrics.List", false), "ExpectedMore"),
            (call("io.systemd.Metrics.Lst", true), "MethodNotFound"),
            (call("io.systemd.MetricsList", true), "InterfaceNotFound"),
            (call("io.scnpm.GetStatus", true), "InterfaceNotFound"),
            (Call { parameters: with, ..list }, "InvalidParameter"),
        ] {
            assert_eq!(error(&call), format!("org.varlink.service.{expected}"), "{call:?}");
        }
        let info = told(&call("org.varlink.service.GetInfo", false), None);
        assert_eq!(info[0]["parameters"]["interfaces"], json!(["org.varlink.service", "io.systemd.Metrics"]));
    }
}
