//! Explains TLS errors and what to do about them.

use rustls::pki_types::UnixTime;
use rustls::{CertificateError, Error, InconsistentKeys};

/// Whose certificate an error is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) enum Whose {
    Server,
    Client,
    Authority,
}

impl Whose {
    fn certificate(self) -> &'static str {
        match self {
            Self::Server => "the server's certificate",
            Self::Client => "the client's certificate",
            Self::Authority => "the CA certificate",
        }
    }
}

/// Explains an error that rustls reports on this side, and says how to fix it.
pub(in crate::store) fn explain(error: &Error, whose: Whose) -> String {
    match error {
        Error::InvalidCertificate(error) => of_certificate(error, whose),
        Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => {
            "the private key does not belong to the client's certificate, which is the first in its file: give the key that the certificate was made with"
                .to_owned()
        }
        Error::AlertReceived(alert) => {
            let words = format!("received fatal alert: {alert:?}");
            match advice(&words) {
                "" => format!("the server ends the handshake: {words}"),
                advice => format!("{advice} ({words})"),
            }
        }
        Error::NoApplicationProtocol => NO_HTTP2.to_owned(),
        Error::PeerIncompatible(_) => format!("{NOTHING_IN_COMMON} ({error})"),
        Error::InvalidMessage(_) => format!("the server's answer to the handshake is not TLS ({error}): check the port and the scheme"),
        error => error.to_string(),
    }
}

const NO_HTTP2: &str = "the server does not speak HTTP/2 within TLS: is it an etcd v3 server?";
const NOTHING_IN_COMMON: &str = "the server and this client, which takes TLS 1.2 and 1.3, have no version or cipher in common";

/// Explains the TLS alert in a text that rustls wrote, such as `received fatal alert:
/// CertificateRequired`. Returns an empty string for unknown alerts and other texts.
pub(in crate::store) fn advice(words: &str) -> &'static str {
    let Some((_, alert)) = words.split_once("received fatal alert: ") else { return "" };
    let name = alert.split(|c: char| !c.is_ascii_alphanumeric()).next().unwrap_or_default();
    match name {
        "CertificateRequired" | "NoCertificate" => "the server wants a client certificate: give one with `identity` or `identity_files`",
        "BadCertificate" => {
            "the server wants a client certificate that its `--trusted-ca-file` signed, and has none or another: give it with `identity` or `identity_files`"
        }
        "UnknownCA" => "the server does not trust the authority of the client's certificate: its `--trusted-ca-file` must have signed it",
        "CertificateExpired" => "the server says that the client's certificate has expired: renew it, or correct a clock",
        "CertificateRevoked" => "the server says that the client's certificate was revoked: give another one",
        "UnsupportedCertificate" => "the server cannot use the client's certificate: does its extended key usage allow `clientAuth`?",
        "CertificateUnknown" | "DecryptError" => "the server does not accept the client's certificate",
        "AccessDenied" => {
            "the server does not admit the client's certificate (see its flags `--client-cert-allowed-hostname` and `--client-crl-file`)"
        }
        "ProtocolVersion" | "HandshakeFailure" | "InsufficientSecurity" => NOTHING_IN_COMMON,
        "UnrecognisedName" => "the server has no certificate for this name: give the right one with `server_name`",
        "NoApplicationProtocol" => NO_HTTP2,
        _ => "",
    }
}

fn of_certificate(error: &CertificateError, whose: Whose) -> String {
    let certificate = whose.certificate();
    match error {
        CertificateError::ExpiredContext { time, not_after } => {
            let (time, ended) = (date(*time), date(*not_after));
            format!("{certificate}, or one in its chain, expired on {ended}: renew it, or correct this machine's clock, which says {time}")
        }
        CertificateError::Expired => format!("{certificate}, or one in its chain, expired: renew it, or correct this machine's clock"),
        CertificateError::NotValidYetContext { time, not_before } => {
            let (time, begin) = (date(*time), date(*not_before));
            format!(
                "{certificate}, or one in its chain, is not valid before {begin}: correct this machine's clock, which says {time}, or make another certificate"
            )
        }
        CertificateError::NotValidYet => format!("{certificate}, or one in its chain, is not valid yet: correct this machine's clock"),
        CertificateError::NotValidForNameContext { expected, presented } => {
            let expected = expected.to_str();
            let names = match presented.as_slice() {
                [] => "has no names (only its subjectAltName counts, and not its common name)".to_owned(),
                names => format!("is for {}", names.iter().map(|name| plain_name(name)).collect::<Vec<_>>().join(", ")),
            };
            format!(
                "{certificate} is not for `{expected}`; it {names}: connect to one of its names, or give the one to expect with `server_name`"
            )
        }
        CertificateError::NotValidForName => {
            format!("{certificate} is for another name: connect to one of its names, or give the one to expect with `server_name`")
        }
        CertificateError::UnknownIssuer => format!(
            "{certificate} is signed by an authority that this client does not trust: give the CA certificate that signed it with `ca_certificate` or `ca_certificate_file`"
        ),
        CertificateError::BadSignature => format!(
            "{certificate} is not signed by the key of the authority that it names: give the CA certificate that signed it with `ca_certificate` or `ca_certificate_file`"
        ),
        CertificateError::Revoked => format!("{certificate} was revoked: make another one"),
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
            let usage = if whose == Whose::Client { "clientAuth" } else { "serverAuth" };
            format!("{certificate} is for another purpose: its extended key usage must allow `{usage}`")
        }
        CertificateError::BadEncoding => format!("{certificate} cannot be read: it is damaged, or not an X.509 certificate"),
        CertificateError::UnsupportedSignatureAlgorithmContext { .. }
        | CertificateError::UnsupportedSignatureAlgorithmForPublicKeyContext { .. } => {
            format!("{certificate} is signed with an algorithm that is not supported, such as SHA-1: sign it anew with SHA-256")
        }
        CertificateError::Other(other) => of_other(&format!("{other:?}"), whose),
        error => format!("{certificate} is refused: {error}"),
    }
}

/// Explains errors that rustls passes on from another crate. That crate is not a dependency here,
/// so this function recognises the errors by their type names.
fn of_other(name: &str, whose: Whose) -> String {
    let certificate = whose.certificate();
    if name.contains("CaUsedAsEndEntity") {
        "the server presents a CA certificate as its own: have the CA sign a certificate for the server, and start the server with that one"
            .to_owned()
    } else if name.contains("UnsupportedCertVersion") {
        format!(
            "{certificate} is of X.509 version 1 or 2: make one of version 3, with its names as subjectAltName (`openssl x509 -req` needs `-extfile` for that)"
        )
    } else if name.contains("EndEntityUsedAsCa") {
        format!("{certificate} is signed by one that is not a CA certificate (`CA:TRUE`): have a CA sign it")
    } else {
        format!("{certificate} is refused: {}", name.trim_start_matches("OtherError(").trim_end_matches(')'))
    }
}

/// Returns the plain name from a text that rustls wrote, such as `DnsName("etcd.test")` or
/// `IpAddress(127.0.0.1)`.
fn plain_name(name: &str) -> String {
    let inner = name.split_once('(').map_or(name, |(_, inner)| inner.strip_suffix(')').unwrap_or(inner));
    inner.trim_matches('"').to_owned()
}

/// Formats a time as RFC 3339, or in seconds if it is beyond that range. Reads no clock.
fn date(time: UnixTime) -> String {
    const FIRST_OF_YEAR_10000: u64 = 253_402_300_800;
    const DAY: u64 = 24 * 60 * 60;
    let seconds = time.as_secs();
    if seconds >= FIRST_OF_YEAR_10000 {
        return format!("{seconds} s after 1970");
    }
    let (mut days, of_day) = (seconds / DAY, seconds % DAY);
    let is_leap = |year: u64| year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    let mut year = 1970;
    while days >= 365 + u64::from(is_leap(year)) {
        days -= 365 + u64::from(is_leap(year));
        year += 1;
    }
    let mut month = 1;
    for length in [31, 28 + u64::from(is_leap(year)), 31, 30, 31, 30, 31, 31, 30, 31, 30, 31] {
        if days < length {
            break;
        }
        days -= length;
        month += 1;
    }
    let (hour, minute, second) = (of_day / 3600, of_day / 60 % 60, of_day % 60);
    format!("{year}-{month:02}-{:02}T{hour:02}:{minute:02}:{second:02}Z", days + 1)
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use rustls::{AlertDescription, PeerIncompatible};

    use super::*;

    #[test]
    fn certificate_errors_are_explained_in_words() {
        let at = |seconds| UnixTime::since_unix_epoch(Duration::from_secs(seconds));
        let certificates = [
            CertificateError::Expired,
            CertificateError::ExpiredContext { time: at(2_000_000_000), not_after: at(1_000_000_000) },
            CertificateError::NotValidYet,
            CertificateError::NotValidYetContext { time: at(1_000_000_000), not_before: at(u64::MAX) },
            CertificateError::UnknownIssuer,
            CertificateError::BadSignature,
            CertificateError::NotValidForName,
            CertificateError::Revoked,
            CertificateError::InvalidPurpose,
            CertificateError::BadEncoding,
        ];
        let incompatible = [Error::PeerIncompatible(PeerIncompatible::NoCipherSuitesInCommon), Error::NoApplicationProtocol];
        for error in certificates.map(Error::InvalidCertificate).into_iter().chain(incompatible) {
            let text = explain(&error, Whose::Server);
            assert!(text.contains("server") && !text.contains("invalid peer certificate"), "{text}");
        }
        let expired = CertificateError::ExpiredContext { time: at(2_000_000_000), not_after: at(1_000_000_000) };
        let text = explain(&Error::InvalidCertificate(expired), Whose::Server);
        assert!(text.contains("2001-09-09T01:46:40Z") && text.contains("2033-05-18"), "{text}");
    }

    #[test]
    fn dates_match_calendar() {
        for day in 0..80_000_u64 {
            let seconds = day * 86_400 + 12_345;
            let expected = humantime::format_rfc3339_seconds(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)).to_string();
            assert_eq!(date(UnixTime::since_unix_epoch(Duration::from_secs(seconds))), expected);
        }
        assert_eq!(date(UnixTime::since_unix_epoch(Duration::from_secs(253_402_300_799))), "9999-12-31T23:59:59Z");
        assert!(date(UnixTime::since_unix_epoch(Duration::from_secs(253_402_300_800))).contains("after 1970"));
    }

    #[test]
    fn certificate_names_are_shown_without_type() {
        for (name, plain) in [("DnsName(\"etcd.test\")", "etcd.test"), ("IpAddress(127.0.0.1)", "127.0.0.1"), ("x", "x")] {
            assert_eq!(plain_name(name), plain);
        }
    }

    #[test]
    fn known_tls_alerts_have_advice() {
        for alert in [
            AlertDescription::CertificateRequired,
            AlertDescription::NoCertificate,
            AlertDescription::BadCertificate,
            AlertDescription::UnknownCA,
            AlertDescription::CertificateExpired,
            AlertDescription::CertificateRevoked,
            AlertDescription::UnsupportedCertificate,
            AlertDescription::CertificateUnknown,
            AlertDescription::AccessDenied,
            AlertDescription::ProtocolVersion,
            AlertDescription::HandshakeFailure,
            AlertDescription::InsufficientSecurity,
            AlertDescription::UnrecognisedName,
            AlertDescription::NoApplicationProtocol,
        ] {
            let shown = Error::AlertReceived(alert).to_string();
            assert_ne!(advice(&format!("the connection ended: {shown}")), "", "{shown}");
        }
        assert_eq!(advice("received fatal alert: CloseNotify"), "");
        assert_eq!(advice("connection refused"), "");
    }
}
