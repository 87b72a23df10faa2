//! One JSON object. docs/check.md has its schema, which only grows.

use std::io::{self, Write};

use serde::Serialize;

use super::{Report, UnitRow};
use crate::{
    policy::Policy,
    text::{Diagnostic, Severity, Span},
};

#[derive(Serialize)]
struct Object<'a> {
    version: u32,
    files: &'a [String],
    loaded: bool,
    not_loaded: Option<String>,
    errors: usize,
    warnings: usize,
    findings: Vec<Finding<'a>>,
    units: &'a [UnitRow],
    #[serde(skip_serializing_if = "Option::is_none")]
    dispatch: Option<&'a str>,
}

#[derive(Serialize)]
struct Finding<'a> {
    code: &'a str,
    severity: String,
    message: &'a str,
    #[serde(flatten)]
    place: Place<'a>,
    unit: Option<&'a str>,
    help: Option<&'a str>,
    fix: Option<Fix<'a>>,
    more: Vec<Place<'a>>,
}

#[derive(Serialize)]
struct Place<'a> {
    file: &'a str,
    line: usize,
    column: usize,
    end_line: usize,
    end_column: usize,
}

#[derive(Serialize)]
struct Fix<'a> {
    #[serde(flatten)]
    place: Place<'a>,
    text: &'a str,
}

pub(super) fn write<'a>(report: &Report<'a>, out: &mut dyn Write) -> io::Result<()> {
    let Report { policy, .. } = report;
    let finding = |diagnostic: &'a Diagnostic| Finding {
        code: diagnostic.code.as_str(),
        severity: diagnostic.severity().to_string(),
        message: &diagnostic.message,
        place: place(diagnostic.span, policy),
        unit: policy.annotation_at(diagnostic.span).map(|id| &*policy.annotation(id).unit.0),
        help: diagnostic.help.as_deref(),
        fix: diagnostic.fix.as_ref().map(|fix| Fix { place: place(fix.span, policy), text: &fix.text }),
        more: diagnostic.more.iter().map(|span| place(*span, policy)).collect(),
    };
    let object = Object {
        // Changes when a program that reads the object would have to.
        version: 1,
        files: &report.files,
        loaded: report.untried.is_none(),
        not_loaded: report.untried.as_ref().map(ToString::to_string),
        errors: report.count(Severity::Error),
        warnings: report.count(Severity::Warning),
        findings: report.diagnostics.iter().map(finding).collect(),
        units: &report.units,
        dispatch: report.dispatch.as_deref(),
    };
    serde_json::to_writer_pretty(&mut *out, &object)?;
    writeln!(out)
}

fn place(span: Span, policy: &Policy) -> Place<'_> {
    let (line, column) = policy.sources.line_column(span);
    let (end_line, end_column) = policy.sources.line_column(Span { start: span.end, ..span });
    Place { file: &policy.sources.file(span.file).path, line, column, end_line, end_column }
}
