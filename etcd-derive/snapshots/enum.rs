#[automatically_derived]
#[allow(deprecated)]
impl ::etcd_typed::Schema for Storage
where
    S3Config: ::etcd_typed::EtcdSchema,
{
    type Change = StorageChange;
    const TABLE: &'static ::etcd_typed::Table = &::etcd_typed::Table {
        name: "Storage",
        doc: "Where files are stored.",
        prefix: ::core::option::Option::Some("/{env}/storage"),
        fields: &[
            ::etcd_typed::Field {
                name: "type",
                segment: "type",
                kind: ::etcd_typed::Kind::Leaf(
                    "one of `local-disk`, `s3`, `none`, `unknown`",
                ),
                ..::etcd_typed::__private::FIELD
            },
            ::etcd_typed::Field {
                name: "LocalDisk",
                doc: "A directory of this machine.",
                kind: ::etcd_typed::Kind::Variant {
                    tags: &["local-disk"],
                    other: false,
                    table: &::etcd_typed::Table {
                        name: "LocalDisk",
                        doc: "",
                        prefix: ::core::option::Option::None,
                        fields: &[Self::__CODECS_1.0.of.0.row("base_path", "basePath")],
                        unknown: ::etcd_typed::UnknownKeys::Ignored,
                    },
                },
                presence: ::etcd_typed::Presence::Optional,
                ..::etcd_typed::__private::FIELD
            },
            ::etcd_typed::Field {
                name: "S3",
                doc: "",
                kind: ::etcd_typed::Kind::Variant {
                    tags: &["s3", "aws"],
                    other: false,
                    table: &::etcd_typed::Table {
                        name: "S3",
                        doc: "",
                        prefix: ::core::option::Option::None,
                        fields: &[
                            ::etcd_typed::Field {
                                name: "value",
                                segment: "",
                                kind: ::etcd_typed::Kind::Flatten(
                                    <S3Config as ::etcd_typed::Schema>::TABLE,
                                ),
                                ..::etcd_typed::__private::FIELD
                            },
                        ],
                        unknown: ::etcd_typed::UnknownKeys::Ignored,
                    },
                },
                presence: ::etcd_typed::Presence::Optional,
                ..::etcd_typed::__private::FIELD
            },
            ::etcd_typed::Field {
                name: "None",
                doc: "",
                kind: ::etcd_typed::Kind::Variant {
                    tags: &["none"],
                    other: false,
                    table: &::etcd_typed::Table {
                        name: "None",
                        doc: "",
                        prefix: ::core::option::Option::None,
                        fields: &[],
                        unknown: ::etcd_typed::UnknownKeys::Ignored,
                    },
                },
                presence: ::etcd_typed::Presence::Optional,
                ..::etcd_typed::__private::FIELD
            },
            ::etcd_typed::Field {
                name: "Unknown",
                doc: "",
                kind: ::etcd_typed::Kind::Variant {
                    tags: &["unknown"],
                    other: true,
                    table: &::etcd_typed::Table {
                        name: "Unknown",
                        doc: "",
                        prefix: ::core::option::Option::None,
                        fields: &[],
                        unknown: ::etcd_typed::UnknownKeys::Ignored,
                    },
                },
                presence: ::etcd_typed::Presence::Optional,
                ..::etcd_typed::__private::FIELD
            },
        ],
        unknown: ::etcd_typed::UnknownKeys::Ignored,
    };
    fn decode(
        __decoder: &mut ::etcd_typed::Decoder<'_>,
    ) -> ::core::option::Option<Self> {
        match __decoder.tag() {
            ::core::option::Option::Some(1usize) => {
                __decoder
                    .variant(
                        1usize,
                        |__decoder: &mut ::etcd_typed::Decoder<'_>| match Self::__CODECS_1
                            .0
                            .decode(__decoder)
                        {
                            ::core::option::Option::Some((__0,)) => {
                                ::core::option::Option::Some(Self::LocalDisk {
                                    base_path: __0,
                                    cache: ::core::default::Default::default(),
                                })
                            }
                            _ => ::core::option::Option::None,
                        },
                    )
            }
            ::core::option::Option::Some(2usize) => {
                __decoder
                    .variant(
                        2usize,
                        |__decoder: &mut ::etcd_typed::Decoder<'_>| {
                            __decoder.flatten::<S3Config>().map(Self::S3)
                        },
                    )
            }
            ::core::option::Option::Some(3usize) => {
                __decoder
                    .variant(
                        3usize,
                        |__decoder: &mut ::etcd_typed::Decoder<'_>| ::core::option::Option::Some(Self::None {}),
                    )
            }
            ::core::option::Option::Some(4usize) => {
                __decoder
                    .variant(
                        4usize,
                        |__decoder: &mut ::etcd_typed::Decoder<'_>| ::core::option::Option::Some(Self::Unknown {}),
                    )
            }
            _ => ::core::option::Option::None,
        }
    }
    fn encode(&self, __encoder: &mut ::etcd_typed::Encoder<'_>) {
        match self {
            Self::LocalDisk { base_path: __value_base_path, cache: _ } => {
                __encoder
                    .variant(
                        1usize,
                        |__encoder: &mut ::etcd_typed::Encoder<'_>| {
                            Self::__CODECS_1.0.encode(__encoder, (__value_base_path,));
                        },
                    )
            }
            Self::S3(__value_value) => {
                __encoder
                    .variant(
                        2usize,
                        |__encoder: &mut ::etcd_typed::Encoder<'_>| {
                            __encoder.flatten(__value_value);
                        },
                    )
            }
            Self::None {} => {
                __encoder.variant(3usize, |_: &mut ::etcd_typed::Encoder<'_>| {})
            }
            Self::Unknown {} => {
                __encoder.variant(4usize, |_: &mut ::etcd_typed::Encoder<'_>| {})
            }
        }
    }
    fn changes(
        __delta: &mut ::etcd_typed::Delta<'_>,
        __out: &mut ::std::vec::Vec<Self::Change>,
    ) {
        __delta.tag(StorageChange::Variant, __out);
        __delta
            .variant(
                1usize,
                |
                    __delta: &mut ::etcd_typed::Delta<'_>,
                    __out: &mut ::std::vec::Vec<StorageLocalDiskChange>|
                {
                    Self::__CODECS_1
                        .0
                        .changes(__delta, (StorageLocalDiskChange::BasePath,), __out);
                },
                StorageChange::LocalDisk,
                __out,
            );
        __delta
            .variant(
                2usize,
                |
                    __delta: &mut ::etcd_typed::Delta<'_>,
                    __out: &mut ::std::vec::Vec<
                        <S3Config as ::etcd_typed::Schema>::Change,
                    >|
                {
                    __delta.flatten::<S3Config, _>(|change| change, __out);
                },
                StorageChange::S3,
                __out,
            );
    }
    fn validate(&self) -> ::core::result::Result<(), ::etcd_typed::ValueError> {
        ::etcd_typed::__private::verdict(check(self))
    }
}
const _: () = ::etcd_typed::__private::distinct_variants(
    <Storage as ::etcd_typed::Schema>::TABLE,
);
#[automatically_derived]
#[allow(deprecated)]
impl Storage {
    const __CODECS_1: &'static (
        ::etcd_typed::__private::LeafTuple<(::etcd_typed::__private::Leaf<PathBuf>,)>,
    ) = &(
        ::etcd_typed::__private::LeafTuple::new(
            0usize,
            (
                ::etcd_typed::__private::Leaf::new(
                    ::etcd_typed::__private::value::<PathBuf>(),
                ),
            ),
        ),
    );
}
///A handle to the directory of [`Storage`]: the handles of each variant's fields, and the methods of [`Dir`](::etcd_typed::Dir).
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
pub struct StorageDir
where
    S3Config: ::etcd_typed::EtcdSchema,
{
    ///A directory of this machine.
    pub local_disk: StorageLocalDiskDir,
    pub s3: <S3Config as ::etcd_typed::EtcdSchema>::Handle,
    __dir: ::etcd_typed::Dir<Storage>,
}
impl StorageDir
where
    S3Config: ::etcd_typed::EtcdSchema,
{
    ///Opens the directory `/{env}/storage`. Each parameter is escaped, so that it stays within its segment.
    /**

# Errors

None at present: characters that a key cannot contain are escaped.*/
    #[allow(dead_code)]
    pub fn open(
        __client: &::etcd_typed::Client,
        env: impl ::core::fmt::Display,
    ) -> ::etcd_typed::Result<Self> {
        ::etcd_typed::__private::open::<
            Storage,
        >(
            __client,
            &[
                ::etcd_typed::__private::Segment::Of(&[&env]),
                ::etcd_typed::__private::Segment::Literal("storage"),
            ],
        )
    }
}
#[automatically_derived]
#[allow(deprecated)]
impl ::etcd_typed::EtcdSchema for Storage
where
    S3Config: ::etcd_typed::EtcdSchema,
{
    type Handle = StorageDir;
    #[inline]
    fn handle(__dir: ::etcd_typed::Dir<Self>) -> Self::Handle {
        let __fields = __dir.__fields();
        let __variant_1 = __fields.variant(1usize);
        let (__0,) = Self::__CODECS_1.0.entries(&__variant_1);
        StorageDir {
            local_disk: StorageLocalDiskDir {
                base_path: __0,
            },
            s3: __fields.variant(2usize).flatten::<S3Config>(),
            __dir: __dir,
        }
    }
}
#[automatically_derived]
impl ::core::ops::Deref for StorageDir
where
    S3Config: ::etcd_typed::EtcdSchema,
{
    type Target = ::etcd_typed::Dir<Storage>;
    #[inline]
    fn deref(&self) -> &Self::Target {
        &self.__dir
    }
}
#[automatically_derived]
impl ::core::clone::Clone for StorageDir
where
    S3Config: ::etcd_typed::EtcdSchema,
{
    #[inline]
    fn clone(&self) -> Self {
        ::etcd_typed::EtcdSchema::handle(::core::clone::Clone::clone(&self.__dir))
    }
}
#[automatically_derived]
impl ::core::fmt::Debug for StorageDir
where
    S3Config: ::etcd_typed::EtcdSchema,
{
    #[inline]
    fn fmt(&self, __f: &mut ::core::fmt::Formatter<'_>) -> ::core::fmt::Result {
        ::core::fmt::Debug::fmt(&self.__dir, __f)
    }
}
///The handles of the fields of [`Storage::LocalDisk`]. A write is refused with `Conflict` if the stored variant is another one.
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
pub struct StorageLocalDiskDir {
    pub base_path: ::etcd_typed::Entry<PathBuf>,
}
#[automatically_derived]
#[allow(deprecated)]
impl ::core::clone::Clone for StorageLocalDiskDir {
    fn clone(&self) -> Self {
        Self {
            base_path: ::core::clone::Clone::clone(&self.base_path),
        }
    }
}
#[automatically_derived]
#[allow(deprecated)]
impl ::core::fmt::Debug for StorageLocalDiskDir {
    fn fmt(&self, __f: &mut ::core::fmt::Formatter<'_>) -> ::core::fmt::Result {
        __f.debug_struct("StorageLocalDiskDir")
            .field("base_path", &self.base_path)
            .finish()
    }
}
///A change of [`Storage`]: of its variant, or of one field of a variant.
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
pub enum StorageChange
where
    S3Config: ::etcd_typed::EtcdSchema,
{
    /// The variant: the values of the tag.
    Variant(::etcd_typed::Change<::std::string::String>),
    ///A directory of this machine.
    LocalDisk(StorageLocalDiskChange),
    S3(<S3Config as ::etcd_typed::Schema>::Change),
}
#[automatically_derived]
#[allow(deprecated)]
impl ::core::fmt::Debug for StorageChange
where
    S3Config: ::etcd_typed::EtcdSchema,
{
    fn fmt(&self, __f: &mut ::core::fmt::Formatter<'_>) -> ::core::fmt::Result {
        match self {
            Self::Variant(__change) => {
                ::etcd_typed::__private::change(__f, "Variant", __change)
            }
            Self::LocalDisk(__change) => {
                ::etcd_typed::__private::change(__f, "LocalDisk", __change)
            }
            Self::S3(__change) => ::etcd_typed::__private::change(__f, "S3", __change),
        }
    }
}
///A change of one field of [`Storage::LocalDisk`].
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
pub enum StorageLocalDiskChange {
    BasePath(::etcd_typed::Change<PathBuf>),
}
#[automatically_derived]
#[allow(deprecated)]
impl ::core::fmt::Debug for StorageLocalDiskChange {
    #[inline]
    fn fmt(&self, __f: &mut ::core::fmt::Formatter<'_>) -> ::core::fmt::Result {
        match self {
            Self::BasePath(__change) => {
                ::etcd_typed::__private::change(__f, "BasePath", __change)
            }
        }
    }
}
