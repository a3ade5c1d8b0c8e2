::core::compile_error! {
    "there is no `jsn`; did you mean `json`?"
}
#[automatically_derived]
#[allow(deprecated)]
impl Schema {
    const __CODECS: &'static (
        ::etcd_typed::__private::LeafTuple<
            (::etcd_typed::__private::Leaf<u8>, ::etcd_typed::__private::Leaf<u8>),
        >,
    ) = &(
        ::etcd_typed::__private::LeafTuple::new(
            0usize,
            (
                ::etcd_typed::__private::Leaf::new(
                    ::etcd_typed::__private::value::<u8>(),
                ),
                ::etcd_typed::__private::Leaf::new(
                    ::etcd_typed::__private::value::<u8>(),
                ),
            ),
        ),
    );
}
///A handle to the directory of [`Schema`]: one handle for each field, and the methods of [`Dir`](::etcd_typed::Dir).
#[allow(
    clippy::all,
    clippy::pedantic,
    dead_code,
    missing_docs,
    nonstandard_style,
    private_bounds,
    private_interfaces,
    unreachable_pub,
    unnameable_types,
    deprecated
)]
struct SchemaDir {
    good: ::etcd_typed::Entry<u8>,
    typo: ::etcd_typed::Entry<u8>,
    __dir: ::etcd_typed::Dir<Schema>,
}
impl SchemaDir {
    ///Opens the directory `/a/{env}`. Each parameter is escaped, so that it stays within its segment.
    /**

# Errors

None at present: characters that a key cannot contain are escaped.*/
    #[allow(dead_code)]
    fn open(
        __client: &::etcd_typed::Client,
        env: impl ::core::fmt::Display,
    ) -> ::etcd_typed::Result<Self> {
        ::etcd_typed::__private::open::<
            Schema,
        >(
            __client,
            &[
                ::etcd_typed::__private::Segment::Literal("a"),
                ::etcd_typed::__private::Segment::Of(&[&env]),
            ],
        )
    }
}
#[automatically_derived]
#[allow(deprecated)]
impl ::etcd_typed::EtcdSchema for Schema {
    type Handle = SchemaDir;
    #[inline]
    fn handle(__dir: ::etcd_typed::Dir<Self>) -> Self::Handle {
        let __fields = __dir.__fields();
        let (__0, __1) = Self::__CODECS.0.entries(&__fields);
        SchemaDir {
            good: __0,
            typo: __1,
            __dir: __dir,
        }
    }
}
#[automatically_derived]
impl ::core::ops::Deref for SchemaDir {
    type Target = ::etcd_typed::Dir<Schema>;
    #[inline]
    fn deref(&self) -> &Self::Target {
        &self.__dir
    }
}
#[automatically_derived]
impl ::core::clone::Clone for SchemaDir {
    #[inline]
    fn clone(&self) -> Self {
        ::etcd_typed::EtcdSchema::handle(::core::clone::Clone::clone(&self.__dir))
    }
}
#[automatically_derived]
impl ::core::fmt::Debug for SchemaDir {
    #[inline]
    fn fmt(&self, __f: &mut ::core::fmt::Formatter<'_>) -> ::core::fmt::Result {
        ::core::fmt::Debug::fmt(&self.__dir, __f)
    }
}
///A change of one field of [`Schema`].
#[allow(
    clippy::all,
    clippy::pedantic,
    dead_code,
    missing_docs,
    nonstandard_style,
    private_bounds,
    private_interfaces,
    unreachable_pub,
    unnameable_types,
    deprecated
)]
enum SchemaChange {
    Good(::etcd_typed::Change<u8>),
    Typo(::etcd_typed::Change<u8>),
}
#[automatically_derived]
#[allow(deprecated)]
impl ::core::fmt::Debug for SchemaChange {
    #[inline]
    fn fmt(&self, __f: &mut ::core::fmt::Formatter<'_>) -> ::core::fmt::Result {
        match self {
            Self::Good(__change) => {
                ::etcd_typed::__private::change(__f, "Good", __change)
            }
            Self::Typo(__change) => {
                ::etcd_typed::__private::change(__f, "Typo", __change)
            }
        }
    }
}
impl ::etcd_typed::Schema for Schema {
    type Change = SchemaChange;
    const TABLE: &'static ::etcd_typed::Table = &::etcd_typed::Table {
        name: "",
        doc: "",
        prefix: ::core::option::Option::None,
        fields: &[],
        unknown: ::etcd_typed::UnknownKeys::Ignored,
    };
    fn decode(_: &mut ::etcd_typed::Decoder<'_>) -> ::core::option::Option<Self> {
        ::core::option::Option::None
    }
    fn encode(&self, _: &mut ::etcd_typed::Encoder<'_>) {}
    fn changes(_: &mut ::etcd_typed::Delta<'_>, _: &mut ::std::vec::Vec<Self::Change>) {}
}
