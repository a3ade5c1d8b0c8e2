#[automatically_derived]
#[allow(deprecated)]
impl ::etcd_typed::EtcdValue for Level {
    const TYPE: &'static ::core::primitive::str = "one of `very-low`, `high`";
    const QUOTABLE: ::core::primitive::bool = true;
    fn encode(
        &self,
    ) -> ::core::result::Result<
        ::etcd_typed::__private::Bytes,
        ::etcd_typed::ValueError,
    > {
        ::etcd_typed::__private::text(
            match self {
                Self::VeryLow => "very-low",
                Self::High => "high",
            },
        )
    }
    fn decode(
        __bytes: &[::core::primitive::u8],
    ) -> ::core::result::Result<Self, ::etcd_typed::ValueError> {
        match ::etcd_typed::__private::trimmed(__bytes)? {
            "very-low" | "v" => ::core::result::Result::Ok(Self::VeryLow),
            "high" => ::core::result::Result::Ok(Self::High),
            _ => ::core::result::Result::Err(::etcd_typed::__private::not_a(Self::TYPE)),
        }
    }
    fn survives(
        &self,
        _: &::etcd_typed::__private::Bytes,
    ) -> ::core::result::Result<(), ::etcd_typed::ValueError> {
        ::core::result::Result::Ok(())
    }
}
#[automatically_derived]
#[allow(deprecated)]
impl ::etcd_typed::EtcdValue for Port {
    const TYPE: &'static ::core::primitive::str = <u16 as ::etcd_typed::EtcdValue>::TYPE;
    const QUOTABLE: ::core::primitive::bool = <u16 as ::etcd_typed::EtcdValue>::QUOTABLE;
    const SECRET: ::core::primitive::bool = <u16 as ::etcd_typed::EtcdValue>::SECRET;
    const IN_LIST: ::etcd_typed::InList = <u16 as ::etcd_typed::EtcdValue>::IN_LIST;
    fn encode(
        &self,
    ) -> ::core::result::Result<
        ::etcd_typed::__private::Bytes,
        ::etcd_typed::ValueError,
    > {
        <u16 as ::etcd_typed::EtcdValue>::encode(&self.0)
    }
    fn decode(
        __bytes: &[::core::primitive::u8],
    ) -> ::core::result::Result<Self, ::etcd_typed::ValueError> {
        <u16 as ::etcd_typed::EtcdValue>::decode(__bytes)
            .map(|__bytes| Self { 0: __bytes })
    }
    fn survives(
        &self,
        __bytes: &::etcd_typed::__private::Bytes,
    ) -> ::core::result::Result<(), ::etcd_typed::ValueError> {
        <u16 as ::etcd_typed::EtcdValue>::survives(&self.0, __bytes)
    }
}
