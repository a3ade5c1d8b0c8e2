//! Records what the library outputs: returned values, errors and logs.

use super::*;

/// All outputs, with the name of their source.
#[derive(Default)]
pub(super) struct Outputs(Vec<(String, String)>);

impl Outputs {
    pub(super) fn say(&mut self, what: &str, thing: &dyn Debug) {
        self.0.push((what.to_owned(), format!("{thing:?} {thing:#?}")));
    }

    pub(super) fn print(&mut self, what: &str, thing: &dyn Display) {
        self.0.push((what.to_owned(), format!("{thing} {thing:#}")));
    }

    /// Checks the kind of the error, and records everything that the error contains.
    pub(super) fn error<T>(&mut self, what: &str, result: Result<T, Error>, kind: ErrorKind) -> Error {
        let Err(error) = result else { panic!("{what}: no error") };
        assert_eq!(error.kind(), kind, "{what}: {error}");
        self.all_of(what, &error);
        error
    }

    pub(super) fn all_of(&mut self, what: &str, error: &Error) {
        self.say(what, error);
        self.print(what, error);
        self.say(what, &error.problems());
        error.problems().iter().for_each(|problem| self.print(what, problem));
        let mut source = error.source();
        while let Some(cause) = source {
            self.say(what, &cause);
            self.print(what, &cause);
            source = cause.source();
        }
    }

    pub(super) fn has_no_secret(&self) {
        let shown: Vec<_> = self.0.iter().filter(|(_, text)| shows(text)).collect();
        assert!(shown.is_empty(), "{} of {}: {shown:#?}", shown.len(), self.0.len());
    }
}

/// Everything that the process reported through `tracing` and `log`.
#[derive(Clone, Default)]
pub(super) struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    pub(super) fn start() -> Self {
        static LOG: OnceLock<Log> = OnceLock::new();
        let start = || {
            let log = Self::default();
            let subscriber = tracing_subscriber::fmt().with_max_level(tracing_subscriber::filter::LevelFilter::TRACE);
            subscriber.with_span_events(FmtSpan::FULL).with_ansi(false).with_writer(log.clone()).init();
            log
        };
        LOG.get_or_init(start).clone()
    }

    pub(super) fn lines(&self) -> Vec<String> {
        String::from_utf8_lossy(&self.0.lock().unwrap()).lines().map(str::to_owned).collect()
    }

    pub(super) fn has_no_secret(&self) {
        let lines = self.lines();
        let shown: Vec<_> = lines.iter().filter(|line| shows(line)).take(20).collect();
        assert!(shown.is_empty(), "of {} lines: {shown:#?}", lines.len());
    }

    pub(super) fn heard(&self, target: &str) {
        let lines = self.lines();
        assert!(lines.iter().any(|line| line.contains(target)), "no output of {target} in {} lines", lines.len());
    }
}

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'w> MakeWriter<'w> for Log {
    type Writer = Self;

    fn make_writer(&'w self) -> Self {
        self.clone()
    }
}
