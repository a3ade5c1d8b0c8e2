//! Options that other clients accept after the `?` of an address, and the builder method that sets
//! each option here.

/// The names of options in lower case, without `-`, `_` and `.`, and the method or scheme to use
/// instead.
const INSTEAD: &[(&[&str], &str)] = &[
    (&["tls", "ssl", "secure", "usetls", "scheme", "insecure"], "the scheme `etcds://`"),
    (
        &[
            "ca",
            "cacert",
            "cafile",
            "cacertfile",
            "capath",
            "trustedca",
            "trustedcafile",
            "tlsca",
            "tlscafile",
            "tlscacert",
            "sslrootcert",
            "rootca",
        ],
        "`ClientBuilder::ca_certificate_file`",
    ),
    (
        &[
            "cert",
            "certfile",
            "key",
            "keyfile",
            "clientcert",
            "clientcertfile",
            "clientkey",
            "clientkeyfile",
            "tlscert",
            "tlscertfile",
            "tlskey",
            "tlskeyfile",
            "certkey",
            "sslcert",
            "sslkey",
            "identity",
        ],
        "`ClientBuilder::identity_files`",
    ),
    (&["servername", "tlsservername", "sni", "domain", "domainname", "insecureskipverify", "skipverify"], "`ClientBuilder::server_name`"),
    (&["user", "username", "password", "pass", "passwd", "auth", "credentials"], "`ClientBuilder::credentials`"),
    (&["timeout", "dialtimeout", "connecttimeout", "connectiontimeout", "conntimeout"], "`ClientBuilder::connect_timeout`"),
    (
        &[
            "keepalive",
            "keepaliveinterval",
            "keepalivetime",
            "keepalivetimeout",
            "keepalivewhileidle",
            "dialkeepalivetime",
            "dialkeepalivetimeout",
            "tcpkeepalive",
        ],
        "`ClientBuilder::keep_alive`",
    ),
    (&["namespace", "prefix", "keyprefix", "root", "path", "basepath"], "`ClientBuilder::namespace`"),
    (&["maxoperations", "maxtxnops", "maxops"], "`ClientBuilder::max_operations`"),
    (
        &["maxrequestbytes", "maxcallsendmsgsize", "maxsendmsgsize", "maxmsgsize", "maxcallrecvmsgsize", "maxrecvmsgsize"],
        "`ClientBuilder::max_request_bytes`",
    ),
    (
        &[
            "retry",
            "retries",
            "maxretries",
            "attempts",
            "backoff",
            "requesttimeout",
            "calltimeout",
            "commandtimeout",
            "optimeout",
            "readtimeout",
        ],
        "`ClientBuilder::retry`",
    ),
    (&["version", "apiversion", "api"], "the scheme `etcd2://` for the v2 API, any other for v3"),
];

/// Returns advice on what to use instead of these parameters. The advice does not quote them, since
/// any part of a wrong address may be a password.
pub(super) fn advice(parameters: &str) -> String {
    let name = |parameter: &str| {
        let name = parameter.split('=').next().unwrap_or_default();
        name.chars().filter(|c| !matches!(c, '-' | '_' | '.')).collect::<String>().to_ascii_lowercase()
    };
    let mut instead = Vec::new();
    for name in parameters.split(['&', ';', ',']).map(name) {
        if let Some((_, method)) = INSTEAD.iter().find(|(names, _)| names.contains(&name.as_str()))
            && !instead.contains(method)
        {
            instead.push(*method);
        }
    }
    if instead.is_empty() {
        return "an address has no parameters; options are set on `Client::builder`".to_owned();
    }
    format!("an address has no parameters; use {} instead", instead.join(" and "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn advice_says_which_builder_method_to_use() {
        for (parameters, said) in [
            ("dial_timeout=5s", "connect_timeout"),
            ("dial-timeout=5s&keepAliveTime=3", "keep_alive"),
            ("CA_CERT=/etc/ca.pem", "ca_certificate_file"),
            ("cert=a&key=b", "identity_files"),
            ("tls.server-name=x", "server_name"),
            ("user=root&password=hunter2", "credentials"),
            ("prefix=/x", "namespace"),
            ("max_txn_ops=9", "max_operations"),
            ("retries=3", "retry"),
            ("tls=true", "etcds://"),
            ("hunter2=1", "Client::builder"),
            ("", "Client::builder"),
        ] {
            let advice = advice(parameters);
            assert!(advice.contains(said) && advice.contains("no parameters") && !advice.contains("hunter2"), "{parameters}: {advice}");
        }
    }
}
