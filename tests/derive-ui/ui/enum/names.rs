use etcd_typed::EtcdSchema;

#[derive(EtcdSchema)]
#[etcd(tag = "a/b")]
enum Tag {
    A { a: u8 },
}

#[derive(EtcdSchema)]
enum SameTag {
    A { a: u8 },
    #[etcd(rename = "a")]
    B,
    #[serde(alias = "a")]
    C,
    #[etcd(rename = " d")]
    D,
}

#[derive(EtcdSchema)]
#[serde(tag = "type")]
enum TagAsField {
    A {
        r#type: u8,
    },
    B {
        #[serde(alias = "type")]
        of: u8,
    },
}

#[derive(EtcdSchema)]
enum SameField {
    A {
        #[etcd(rename = "b")]
        a: u8,
        b: u8,
    },
}

#[derive(EtcdSchema)]
#[allow(non_camel_case_types)]
enum SameHandle {
    VeryBad { a: u8 },
    very_bad { a: u8 },
}

fn main() {}
