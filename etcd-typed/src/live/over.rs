//! Views over a base. The base is a value that supplies the fields that the store does not have.

use std::borrow::Borrow;

use super::status::{FieldSource, FieldStatus};
use super::view::StructView;
use super::viewing::Viewing;
use crate::changes::Mirror;
use crate::error::Result;
use crate::schema::{self, Base, FieldKeys, Schema};
use crate::version::Versioned;

impl<S: Schema> Viewing<S> {
    /// Takes the value of every field without a key in the store from `base`, instead of the
    /// default of the schema. So a program can read its configuration from files and the
    /// environment with any loader, and the store overrides single fields.
    ///
    /// - A field with one value comes from the store if its key or one of its aliases exists there,
    ///   otherwise from the base. This includes required fields, so the directory may be empty.
    /// - A map comes from the store as a whole if the store has any key of the map, otherwise from
    ///   the base.
    /// - If only the base has an optional struct, the struct is present. Fields that the store has
    ///   override its fields one by one.
    /// - A field with `skip` has no key, and is not taken from the base.
    ///
    /// The state is validated as a whole, like every state of a view. When a key is deleted, its
    /// field falls back to the base. [`Live::sources`](crate::Live::sources) returns the source of
    /// each field, the store or the base.
    ///
    /// Only this view uses the base. [`Dir::get`](crate::Dir::get),
    /// [`Dir::update`](crate::Dir::update), [`Entry::get`](crate::Entry::get) and
    /// [`Entry::modify`](crate::Entry::modify) read only the store, and use the defaults of the
    /// schema.
    ///
    #[cfg_attr(feature = "derive", doc = "```")]
    #[cfg_attr(not(feature = "derive"), doc = "```text")]
    /// use etcd_typed::{Client, EtcdSchema, FieldSource};
    ///
    /// #[derive(EtcdSchema)]
    /// struct Limits {
    ///     #[etcd(default = 100)]
    ///     rate_limit: u32,
    ///     region: String,
    /// }
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> etcd_typed::Result<()> {
    /// let from_file = Limits { rate_limit: 50, region: "eu".to_owned() };
    /// let limits = Client::connect("memory:").await?.dir::<Limits>("/app/limits")?;
    /// let live = limits.live().over(from_file).await?;
    /// assert_eq!((live.get().rate_limit, live.get().region.as_str()), (50, "eu"));
    ///
    /// let written = limits.rate_limit.set(&250).await?;
    /// assert_eq!(live.wait_for_revision(written).await?.rate_limit, 250);
    /// let sources: Vec<_> = live.sources().iter().map(|field| (field.key.to_string(), field.source)).collect();
    /// assert_eq!(sources, [
    ///     ("/app/limits/rate_limit".to_owned(), FieldSource::Store),
    ///     ("/app/limits/region".to_owned(), FieldSource::Base),
    /// ]);
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// `Invalid` if the base could not be written. The error is returned when the view is awaited,
    /// before any request, and lists every field that has no stored form or fails its validation.
    pub fn over(mut self, base: impl Borrow<S>) -> Self {
        match Base::new(&self.source.directory, base.borrow()) {
            Ok(base) => self.view.over(base),
            Err(error) => self.refused = Some(error),
        }
        self
    }
}

impl<S: Schema> StructView<S> {
    /// Computes the next state of a view over a base.
    pub(super) async fn completed(&mut self, base: &Base, mirror: &Mirror) -> Result<Versioned<S>> {
        let directory = mirror.directory();
        let completed = base.complete(mirror.tree());
        let status = |field: &FieldKeys| FieldStatus {
            key: directory.descend(&field.key),
            source: if completed.from_base.contains(&field.key) { FieldSource::Base } else { FieldSource::Store },
        };
        self.sources = base.fields(&completed).map(status).collect();
        schema::decode_completed_in_steps(directory, &completed.tree, &completed.nones, mirror.revision()).await
    }
}
