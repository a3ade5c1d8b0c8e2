#[automatically_derived]
#[allow(deprecated)]
impl<T> Checkout<T>
where
    Database: ::etcd_typed::EtcdSchema,
    Region: ::etcd_typed::__private::NestedIn<Checkout<T>, 5usize>,
    String: ::etcd_typed::MapKey,
    String: ::etcd_typed::MapKey,
    Common: ::etcd_typed::EtcdSchema,
    T: ::core::marker::Send + ::core::marker::Sync + 'static,
    T: ::etcd_typed::__private::Serde + ::core::fmt::Debug,
{
    const __CODECS: &'static (
        ::etcd_typed::__private::LeafTuple<
            (
                ::etcd_typed::__private::Leaf<u32>,
                ::etcd_typed::__private::LeafOpt<String>,
                ::etcd_typed::__private::Leaf<T>,
                ::etcd_typed::__private::Leaf<u32>,
            ),
        >,
        ::etcd_typed::Codec<u64>,
    ) = &(
        ::etcd_typed::__private::LeafTuple::new(
            0usize,
            (
                ::etcd_typed::__private::Leaf::or(
                    ::etcd_typed::__private::value::<u32>(),
                    || 100,
                ),
                ::etcd_typed::__private::LeafOpt::new(
                    ::etcd_typed::__private::value::<String>(),
                ),
                ::etcd_typed::__private::Leaf::new(
                    {
                        #[allow(unused_imports)]
                        use ::etcd_typed::__private::NotComparable as _;
                        ::etcd_typed::__private::compared(
                            ::etcd_typed::__private::json::<T>(),
                            ::etcd_typed::__private::Comparable::<T>::EQUAL,
                        )
                    }
                        .secret(),
                ),
                ::etcd_typed::__private::Leaf::new(
                    {
                        #[allow(unused_imports)]
                        use ::etcd_typed::__private::NotSecret as _;
                        ::etcd_typed::__private::secret_if(
                            {
                                #[allow(unused_imports)]
                                use ::etcd_typed::__private::NotComparable as _;
                                ::etcd_typed::__private::compared(
                                    {
                                        use hex::{decode as __decode, encode as __encode};
                                        ::etcd_typed::Codec::<
                                            u32,
                                        >::with(
                                            |value: &u32| ::etcd_typed::__private::encoded(
                                                __encode(value),
                                            ),
                                            |value: &[::core::primitive::u8]| ::etcd_typed::__private::checked(
                                                __decode(value),
                                            ),
                                        )
                                    },
                                    ::etcd_typed::__private::Comparable::<u32>::EQUAL,
                                )
                            },
                            ::etcd_typed::__private::IsSecret::<u32>::IS,
                        )
                    }
                        .validated(|value: &u32| ::etcd_typed::__private::verdict(
                            odd(value),
                        )),
                ),
            ),
        ),
        ::etcd_typed::__private::value::<u64>(),
    );
}
#[automatically_derived]
#[allow(deprecated)]
impl<T> ::etcd_typed::Schema for Checkout<T>
where
    Database: ::etcd_typed::EtcdSchema,
    Region: ::etcd_typed::__private::NestedIn<Checkout<T>, 5usize>,
    String: ::etcd_typed::MapKey,
    String: ::etcd_typed::MapKey,
    Common: ::etcd_typed::EtcdSchema,
    T: ::core::marker::Send + ::core::marker::Sync + 'static,
    T: ::etcd_typed::__private::Serde + ::core::fmt::Debug,
{
    type Change = CheckoutChange<T>;
    const TABLE: &'static ::etcd_typed::Table = &::etcd_typed::Table {
        name: "Checkout",
        doc: "Limits and endpoints of the checkout service.",
        prefix: ::core::option::Option::Some("/{env}/checkout"),
        fields: &[
            ::etcd_typed::Field {
                doc: "Requests per second.",
                presence: Self::__CODECS.0.of.0.presence("100"),
                aliases: &["limit"],
                ..Self::__CODECS.0.of.0.row("rate_limit", "rate_limit")
            },
            Self::__CODECS.0.of.1.row("banner", "banner"),
            Self::__CODECS.0.of.2.row("features", "features"),
            Self::__CODECS.0.of.3.row("mask", "mask"),
            ::etcd_typed::Field {
                name: "database",
                segment: "database",
                kind: ::etcd_typed::Kind::Dir(<Database as ::etcd_typed::Schema>::TABLE),
                ..::etcd_typed::__private::FIELD
            },
            ::etcd_typed::Field {
                name: "regions",
                segment: "regions",
                kind: ::etcd_typed::Kind::DirMap {
                    key: <String as ::etcd_typed::EtcdValue>::TYPE,
                    table: <Region as ::etcd_typed::__private::NestedIn<
                        Checkout<T>,
                        5usize,
                    >>::SCHEMAS_CANNOT_CONTAIN_EACH_OTHER,
                },
                presence: ::etcd_typed::Presence::Optional,
                ..::etcd_typed::__private::FIELD
            },
            ::etcd_typed::Field {
                name: "quotas",
                segment: "quotas",
                kind: ::etcd_typed::Kind::Entries {
                    key: <String as ::etcd_typed::EtcdValue>::TYPE,
                    value: Self::__CODECS.1.type_name(),
                },
                presence: ::etcd_typed::Presence::Optional,
                secret: Self::__CODECS.1.is_secret(),
                ..::etcd_typed::__private::FIELD
            },
            ::etcd_typed::Field {
                name: "common",
                segment: "",
                kind: ::etcd_typed::Kind::Flatten(
                    <Common as ::etcd_typed::Schema>::TABLE,
                ),
                ..::etcd_typed::__private::FIELD
            },
        ],
        unknown: ::etcd_typed::UnknownKeys::Ignored,
    };
    fn decode(
        __decoder: &mut ::etcd_typed::Decoder<'_>,
    ) -> ::core::option::Option<Self> {
        const {
            ::etcd_typed::__private::distinct(
                <Checkout<T> as ::etcd_typed::Schema>::TABLE,
            )
        };
        match (
            Self::__CODECS.0.decode(__decoder),
            __decoder.dir::<Database>(4usize),
            __decoder.dir_map::<BTreeMap<String, Region>>(5usize),
            __decoder.entries::<BTreeMap<String, u64>>(6usize, &Self::__CODECS.1),
            __decoder.flatten::<Common>(),
        ) {
            (
                ::core::option::Option::Some((__0, __1, __2, __3)),
                ::core::option::Option::Some(__4),
                ::core::option::Option::Some(__5),
                ::core::option::Option::Some(__6),
                ::core::option::Option::Some(__7),
            ) => {
                ::core::option::Option::Some(Self {
                    rate_limit: __0,
                    banner: __1,
                    features: __2,
                    mask: __3,
                    database: __4,
                    regions: __5,
                    quotas: __6,
                    common: __7,
                    cache: ::core::default::Default::default(),
                })
            }
            _ => ::core::option::Option::None,
        }
    }
    #[inline]
    fn encode(&self, __encoder: &mut ::etcd_typed::Encoder<'_>) {
        Self::__CODECS
            .0
            .encode(
                __encoder,
                (&self.rate_limit, &self.banner, &self.features, &self.mask),
            );
        __encoder.dir(4usize, &self.database);
        __encoder.dir_map(5usize, &self.regions);
        __encoder.entries(6usize, &self.quotas, &Self::__CODECS.1);
        __encoder.flatten(&self.common);
    }
    #[inline]
    fn changes(
        __delta: &mut ::etcd_typed::Delta<'_>,
        __out: &mut ::std::vec::Vec<Self::Change>,
    ) {
        Self::__CODECS
            .0
            .changes(
                __delta,
                (
                    CheckoutChange::RateLimit,
                    CheckoutChange::Banner,
                    CheckoutChange::Features,
                    CheckoutChange::Mask,
                ),
                __out,
            );
        __delta.dir::<Database, _>(4usize, CheckoutChange::Database, __out);
        __delta.dir_map::<String, Region, _>(5usize, CheckoutChange::Regions, __out);
        __delta.entries(6usize, &Self::__CODECS.1, CheckoutChange::Quotas, __out);
        __delta.flatten::<Common, _>(CheckoutChange::Common, __out);
    }
    fn validate(&self) -> ::core::result::Result<(), ::etcd_typed::ValueError> {
        ::etcd_typed::__private::verdict(check(self))
    }
}
///A handle to the directory of [`Checkout`]: one handle for each field, and the methods of [`Dir`](::etcd_typed::Dir).
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
pub struct CheckoutDir<T>
where
    Database: ::etcd_typed::EtcdSchema,
    Region: ::etcd_typed::__private::NestedIn<Checkout<T>, 5usize>,
    String: ::etcd_typed::MapKey,
    String: ::etcd_typed::MapKey,
    Common: ::etcd_typed::EtcdSchema,
    T: ::core::marker::Send + ::core::marker::Sync + 'static,
    T: ::etcd_typed::__private::Serde + ::core::fmt::Debug,
{
    ///Requests per second.
    #[deprecated]
    #[allow(non_snake_case, reason = "of another program")]
    pub rate_limit: ::etcd_typed::Entry<u32>,
    pub banner: ::etcd_typed::Entry<String>,
    pub features: ::etcd_typed::Entry<T>,
    mask: ::etcd_typed::Entry<u32>,
    pub database: <Database as ::etcd_typed::EtcdSchema>::Handle,
    pub regions: ::etcd_typed::DirMap<String, Region>,
    pub quotas: ::etcd_typed::EntryMap<String, u64>,
    pub common: <Common as ::etcd_typed::EtcdSchema>::Handle,
    __dir: ::etcd_typed::Dir<Checkout<T>>,
}
impl<T> CheckoutDir<T>
where
    Database: ::etcd_typed::EtcdSchema,
    Region: ::etcd_typed::__private::NestedIn<Checkout<T>, 5usize>,
    String: ::etcd_typed::MapKey,
    String: ::etcd_typed::MapKey,
    Common: ::etcd_typed::EtcdSchema,
    T: ::core::marker::Send + ::core::marker::Sync + 'static,
    T: ::etcd_typed::__private::Serde + ::core::fmt::Debug,
{
    ///Opens the directory `/{env}/checkout`. Each parameter is escaped, so that it stays within its segment.
    /**

# Errors

None at present: characters that a key cannot contain are escaped.*/
    #[allow(dead_code)]
    pub fn open(
        __client: &::etcd_typed::Client,
        env: impl ::core::fmt::Display,
    ) -> ::etcd_typed::Result<Self> {
        ::etcd_typed::__private::open::<
            Checkout<T>,
        >(
            __client,
            &[
                ::etcd_typed::__private::Segment::Of(&[&env]),
                ::etcd_typed::__private::Segment::Literal("checkout"),
            ],
        )
    }
}
#[automatically_derived]
impl<T> ::etcd_typed::__private::NestedIn<Checkout<T>, 5usize> for Region {}
#[automatically_derived]
#[allow(deprecated)]
impl<T> ::etcd_typed::EtcdSchema for Checkout<T>
where
    Database: ::etcd_typed::EtcdSchema,
    Region: ::etcd_typed::__private::NestedIn<Checkout<T>, 5usize>,
    String: ::etcd_typed::MapKey,
    String: ::etcd_typed::MapKey,
    Common: ::etcd_typed::EtcdSchema,
    T: ::core::marker::Send + ::core::marker::Sync + 'static,
    T: ::etcd_typed::__private::Serde + ::core::fmt::Debug,
{
    type Handle = CheckoutDir<T>;
    #[inline]
    fn handle(__dir: ::etcd_typed::Dir<Self>) -> Self::Handle {
        let __fields = __dir.__fields();
        let (__0, __1, __2, __3) = Self::__CODECS.0.entries(&__fields);
        CheckoutDir {
            rate_limit: __0,
            banner: __1,
            features: __2,
            mask: __3,
            database: __fields.dir::<Database>(4usize),
            regions: __fields.dir_map::<String, Region>(5usize),
            quotas: __fields.entries(6usize, &Self::__CODECS.1),
            common: __fields.flatten::<Common>(),
            __dir: __dir,
        }
    }
}
#[automatically_derived]
impl<T> ::core::ops::Deref for CheckoutDir<T>
where
    Database: ::etcd_typed::EtcdSchema,
    Region: ::etcd_typed::__private::NestedIn<Checkout<T>, 5usize>,
    String: ::etcd_typed::MapKey,
    String: ::etcd_typed::MapKey,
    Common: ::etcd_typed::EtcdSchema,
    T: ::core::marker::Send + ::core::marker::Sync + 'static,
    T: ::etcd_typed::__private::Serde + ::core::fmt::Debug,
{
    type Target = ::etcd_typed::Dir<Checkout<T>>;
    #[inline]
    fn deref(&self) -> &Self::Target {
        &self.__dir
    }
}
#[automatically_derived]
impl<T> ::core::clone::Clone for CheckoutDir<T>
where
    Database: ::etcd_typed::EtcdSchema,
    Region: ::etcd_typed::__private::NestedIn<Checkout<T>, 5usize>,
    String: ::etcd_typed::MapKey,
    String: ::etcd_typed::MapKey,
    Common: ::etcd_typed::EtcdSchema,
    T: ::core::marker::Send + ::core::marker::Sync + 'static,
    T: ::etcd_typed::__private::Serde + ::core::fmt::Debug,
{
    #[inline]
    fn clone(&self) -> Self {
        ::etcd_typed::EtcdSchema::handle(::core::clone::Clone::clone(&self.__dir))
    }
}
#[automatically_derived]
impl<T> ::core::fmt::Debug for CheckoutDir<T>
where
    Database: ::etcd_typed::EtcdSchema,
    Region: ::etcd_typed::__private::NestedIn<Checkout<T>, 5usize>,
    String: ::etcd_typed::MapKey,
    String: ::etcd_typed::MapKey,
    Common: ::etcd_typed::EtcdSchema,
    T: ::core::marker::Send + ::core::marker::Sync + 'static,
    T: ::etcd_typed::__private::Serde + ::core::fmt::Debug,
{
    #[inline]
    fn fmt(&self, __f: &mut ::core::fmt::Formatter<'_>) -> ::core::fmt::Result {
        ::core::fmt::Debug::fmt(&self.__dir, __f)
    }
}
///A change of one field of [`Checkout`].
#[derive(Clone)]
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
#[non_exhaustive]
pub enum CheckoutChange<T>
where
    Database: ::etcd_typed::EtcdSchema,
    Region: ::etcd_typed::__private::NestedIn<Checkout<T>, 5usize>,
    String: ::etcd_typed::MapKey,
    String: ::etcd_typed::MapKey,
    Common: ::etcd_typed::EtcdSchema,
    T: ::core::marker::Send + ::core::marker::Sync + 'static,
    T: ::etcd_typed::__private::Serde + ::core::fmt::Debug,
{
    ///Requests per second.
    #[deprecated]
    #[allow(non_snake_case, reason = "of another program")]
    RateLimit(::etcd_typed::Change<u32>),
    Banner(::etcd_typed::Change<String>),
    Features(::etcd_typed::Change<T>),
    #[doc(hidden)]
    Mask(::etcd_typed::Change<u32>),
    Database(<Database as ::etcd_typed::Schema>::Change),
    Regions(::etcd_typed::Keyed<String, <Region as ::etcd_typed::Schema>::Change>),
    Quotas(::etcd_typed::Keyed<String, ::etcd_typed::Change<u64>>),
    Common(<Common as ::etcd_typed::Schema>::Change),
}
#[automatically_derived]
#[allow(deprecated)]
impl<T> ::core::fmt::Debug for CheckoutChange<T>
where
    Database: ::etcd_typed::EtcdSchema,
    Region: ::etcd_typed::__private::NestedIn<Checkout<T>, 5usize>,
    String: ::etcd_typed::MapKey,
    String: ::etcd_typed::MapKey,
    Common: ::etcd_typed::EtcdSchema,
    T: ::core::marker::Send + ::core::marker::Sync + 'static,
    T: ::etcd_typed::__private::Serde + ::core::fmt::Debug,
{
    #[inline]
    fn fmt(&self, __f: &mut ::core::fmt::Formatter<'_>) -> ::core::fmt::Result {
        match self {
            Self::RateLimit(__change) => {
                ::etcd_typed::__private::change(__f, "RateLimit", __change)
            }
            Self::Banner(__change) => {
                ::etcd_typed::__private::change(__f, "Banner", __change)
            }
            Self::Features(__change) => {
                ::etcd_typed::__private::secret_change(__f, "Features", __change)
            }
            Self::Mask(__change) => {
                ::etcd_typed::__private::change(__f, "Mask", __change)
            }
            Self::Database(__change) => {
                ::etcd_typed::__private::change(__f, "Database", __change)
            }
            Self::Regions(__change) => {
                ::etcd_typed::__private::change(__f, "Regions", __change)
            }
            Self::Quotas(__change) => {
                ::etcd_typed::__private::change(__f, "Quotas", __change)
            }
            Self::Common(__change) => {
                ::etcd_typed::__private::change(__f, "Common", __change)
            }
        }
    }
}
