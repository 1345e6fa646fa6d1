//! The habits of real registries as data: the rows of registries.md that matter for reading, mounting, uploading and
//! listing tags. Not here: what is done with them (`pull`, `push`, `auth`).

/// How one kind of registry behaves where registries differ.
#[derive(Clone, Debug)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "the cells of a table that say yes or no"
)]
pub(crate) struct Habit {
    pub(crate) name: &'static str,

    // Reading.
    /// A list that is cut at `n` says so by a Link.
    pub(crate) link: Link,
    /// The largest page of tags, whatever `n` asks for.
    pub(crate) max_page: Option<usize>,
    /// The tags of a repository that does not exist are an empty list.
    pub(crate) lists_missing_repository: bool,
    /// It tells its repositories.
    pub(crate) has_catalog: bool,
    pub(crate) accept: Accept,
    pub(crate) range: Range,

    // Uploading.
    /// An upload's Location is absolute and carries its offset in the query: it changes with each PATCH (E46).
    pub(crate) has_state: bool,
    pub(crate) single_post: SinglePost,
    pub(crate) patch: Patch,
    /// The status of a good PATCH (ECR: 201).
    pub(crate) patch_status: u16,
    pub(crate) patch_range: PatchRange,
    /// The largest PATCH that has a Content-Range; 416 above it (GHCR).
    pub(crate) max_chunk: Option<usize>,
    /// The largest body of any request; 413 above it (nginx, Cloudflare).
    pub(crate) max_body: Option<usize>,
    /// What a PUT with bytes is answered after a PATCH.
    pub(crate) bytes_in_put: BytesInPut,
    /// What GET of a session is answered.
    pub(crate) session_status: u16,
    /// What DELETE of a session is answered.
    pub(crate) cancel_status: u16,
    /// Cancelling wants the right to delete, not only to push.
    pub(crate) cancel_wants_delete: bool,
    /// A session outlives a PATCH that was cut, with the bytes that came.
    pub(crate) survives_cut: bool,
    /// A session outlives a PUT with the wrong digest.
    pub(crate) survives_wrong_digest: bool,
    /// Whether a blob's digest is compared with its bytes at all.
    pub(crate) checks_digest: bool,

    // Mounting.
    /// Mounting is implemented.
    pub(crate) mounts: bool,
    /// A mount from the repository itself says whether the blob is there (N2a).
    pub(crate) self_mounts: bool,
    /// A mount without `from` looks everywhere.
    pub(crate) mounts_from_anywhere: bool,
    /// The answer to a mount of a blob that its source lacks.
    pub(crate) mount_absent: u16,
    /// The answer to a mount from a repository that does not exist.
    pub(crate) mount_no_repository: u16,

    // Manifests.
    /// Status and code of a manifest with a missing blob; `None`: it is taken.
    pub(crate) missing_blob: Option<(u16, &'static str)>,
    /// Status and code of an index with a missing child; `None`: it is taken.
    pub(crate) missing_child: Option<(u16, &'static str)>,
    /// Any media type is taken, not only docker's and OCI's images and indexes.
    pub(crate) any_manifest_type: bool,
    pub(crate) nested_index: bool,
    /// A manifest needs a Content-Type.
    pub(crate) wants_content_type: bool,
    /// A manifest under a digest that is not its own is refused.
    pub(crate) checks_manifest_digest: bool,
    /// Status and code of a schema 1 manifest; `None`: it is taken.
    pub(crate) schema1: Option<(u16, &'static str)>,

    // Referrers.
    /// It lists what is about a manifest, in pages of `max_page`.
    pub(crate) lists_referrers: bool,
    /// A manifest with a subject is answered with `OCI-Subject` (E25).
    pub(crate) tells_subject: bool,

    // Connections and tokens.
    /// Connections are kept.
    pub(crate) keeps_connections: bool,
    /// A request that will be refused is refused before its body is read.
    pub(crate) refuses_early: bool,
    /// A second challenge offers Basic, and Basic is taken.
    pub(crate) offers_basic: bool,
    pub(crate) token_name: &'static str,
    pub(crate) tells_expiry: bool,
}

/// How a page of tags points to the next one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Link {
    /// `n` is ignored and all tags are listed, in no order.
    AllAtOnce,
    /// The list is cut at `n` and nothing says so.
    Never,
    Relative,
    /// Relative, also after the last tag.
    AfterLast,
    Absolute,
}

/// What Accept does (E13).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Accept {
    /// Nothing.
    Ignored,
    /// OCI types and lists that are not named are 404, and of a docker list the linux/amd64 child is served.
    Distribution,
    /// The same, and a request without Accept is one that names nothing.
    DistributionStrict,
}

/// What a Range of a blob is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Range {
    /// 206; 416 where it starts at the end.
    Served,
    /// The same, but the 416 is shorter than its Content-Length: the connection dies.
    DiesAtEnd,
    /// 206; an empty one where it starts at the end.
    EmptyAtEnd,
    /// 200 and the whole blob.
    Ignored,
    /// 416 for every open range.
    Refused,
}

/// What becomes of a blob in the POST of its upload, with `?digest=`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SinglePost {
    /// It is taken: 201.
    Taken,
    /// Its bytes are lost, and the answer is the session that any POST is answered.
    Ignored,
    /// This status.
    Refused(u16),
}

/// Which kinds of PATCH are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Patch {
    /// All; one without Content-Range appends.
    Appends,
    /// The first may lack Content-Range; later ones that do are answered this.
    WantsRange(u16),
    /// None: this status.
    Refused(u16),
}

/// What the Range of a PATCH's answer says (E52).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PatchRange {
    /// All bytes up to now.
    Cumulative,
    /// What the first PATCH said (ECR).
    Stale,
    /// This chunk only (Alibaba).
    ChunkOnly,
}

/// What becomes of a PUT that brings bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BytesInPut {
    Taken,
    /// Taken, but not after a PATCH: this status.
    NotAfterPatch(u16),
    /// Never taken: this status (old Artifactory and Nexus want PATCH).
    Refused(u16),
}

impl Habit {
    /// distribution 3.1.2: the default, and the strictest.
    pub(crate) const DISTRIBUTION_3: Self = Self {
        name: "distribution 3",
        link: Link::Relative,
        max_page: Some(1000),
        lists_missing_repository: false,
        has_catalog: true,
        accept: Accept::Distribution,
        range: Range::Served,
        has_state: true,
        single_post: SinglePost::Ignored,
        patch: Patch::Appends,
        patch_status: 202,
        patch_range: PatchRange::Cumulative,
        max_chunk: None,
        max_body: None,
        bytes_in_put: BytesInPut::Taken,
        session_status: 204,
        cancel_status: 204,
        cancel_wants_delete: true,
        survives_cut: true,
        survives_wrong_digest: true,
        checks_digest: true,
        mounts: true,
        self_mounts: true,
        mounts_from_anywhere: false,
        mount_absent: 202,
        mount_no_repository: 202,
        missing_blob: Some((400, "MANIFEST_BLOB_UNKNOWN")),
        missing_child: Some((400, "MANIFEST_BLOB_UNKNOWN")),
        any_manifest_type: false,
        nested_index: true,
        wants_content_type: true,
        checks_manifest_digest: true,
        schema1: Some((400, "MANIFEST_INVALID")),
        lists_referrers: false,
        tells_subject: false,
        keeps_connections: true,
        refuses_early: false,
        offers_basic: false,
        token_name: "token",
        tells_expiry: true,
    };

    /// distribution 2.8.2.
    pub(crate) const DISTRIBUTION_2: Self = Self {
        name: "distribution 2.8",
        link: Link::AllAtOnce,
        max_page: None,
        accept: Accept::DistributionStrict,
        range: Range::DiesAtEnd,
        survives_cut: false,
        survives_wrong_digest: false,
        schema1: Some((500, "UNKNOWN")),
        refuses_early: true,
        token_name: "access_token",
        ..Self::DISTRIBUTION_3
    };

    /// distribution 2.8.2 that was told to take schema 1.
    pub(crate) const DISTRIBUTION_2_SCHEMA1: Self = Self {
        name: "distribution 2.8 with schema 1",
        schema1: None,
        ..Self::DISTRIBUTION_2
    };

    /// What the registries that are not distribution have in common.
    const OTHER: Self = Self {
        name: "other",
        max_page: None,
        accept: Accept::Ignored,
        has_state: false,
        single_post: SinglePost::Taken,
        cancel_wants_delete: false,
        any_manifest_type: true,
        ..Self::DISTRIBUTION_3
    };

    /// go-containerregistry 0.22.1.
    pub(crate) const GGCR: Self = Self {
        name: "ggcr",
        link: Link::Never,
        range: Range::Refused,
        patch: Patch::WantsRange(400),
        session_status: 400,
        cancel_status: 400,
        mounts: false,
        self_mounts: false,
        missing_blob: None,
        missing_child: Some((404, "MANIFEST_UNKNOWN")),
        wants_content_type: false,
        checks_manifest_digest: false,
        ..Self::OTHER
    };

    /// Gitea 1.26.0.
    pub(crate) const GITEA: Self = Self {
        name: "gitea",
        link: Link::AfterLast,
        range: Range::Ignored,
        patch: Patch::WantsRange(400),
        mounts_from_anywhere: true,
        missing_blob: Some((404, "BLOB_UNKNOWN")),
        missing_child: Some((404, "MANIFEST_BLOB_UNKNOWN")),
        nested_index: false,
        wants_content_type: false,
        checks_manifest_digest: false,
        refuses_early: true,
        offers_basic: true,
        tells_expiry: false,
        ..Self::OTHER
    };

    /// `pulp_container` 2.30.0.
    pub(crate) const PULP: Self = Self {
        name: "pulp",
        link: Link::Absolute,
        accept: Accept::Distribution,
        patch: Patch::WantsRange(500),
        bytes_in_put: BytesInPut::NotAfterPatch(500),
        checks_digest: false,
        mount_absent: 404,
        mount_no_repository: 401,
        missing_blob: Some((400, "MANIFEST_INVALID")),
        missing_child: None,
        any_manifest_type: false,
        checks_manifest_digest: false,
        keeps_connections: false,
        refuses_early: true,
        ..Self::OTHER
    };

    /// ferro-oci-server 1.0.0.
    pub(crate) const FERRO: Self = Self {
        name: "ferro",
        lists_missing_repository: true,
        range: Range::Ignored,
        mounts: false,
        self_mounts: false,
        missing_blob: Some((404, "MANIFEST_BLOB_UNKNOWN")),
        missing_child: Some((404, "MANIFEST_BLOB_UNKNOWN")),
        ..Self::OTHER
    };

    /// cuelabs ociregistry 2025-12-12.
    pub(crate) const CUE: Self = Self {
        name: "cue",
        range: Range::EmptyAtEnd,
        patch: Patch::WantsRange(416),
        bytes_in_put: BytesInPut::NotAfterPatch(500),
        cancel_status: 405,
        mount_absent: 404,
        mount_no_repository: 404,
        missing_blob: Some((500, "UNKNOWN")),
        missing_child: Some((500, "UNKNOWN")),
        wants_content_type: false,
        refuses_early: true,
        ..Self::OTHER
    };

    /// Amazon ECR, from its documentation and threads (protocol.md 7).
    pub(crate) const ECR: Self = Self {
        name: "ecr",
        single_post: SinglePost::Ignored,
        patch_status: 201,
        patch_range: PatchRange::Stale,
        mounts: false,
        self_mounts: false,
        ..Self::OTHER
    };

    /// GHCR, from threads (protocol.md 7).
    pub(crate) const GHCR: Self = Self {
        name: "ghcr",
        has_catalog: false,
        max_chunk: Some(4 << 20),
        cancel_status: 405,
        ..Self::OTHER
    };

    /// Alibaba ACR, from threads (E52).
    pub(crate) const ALIBABA: Self = Self {
        name: "alibaba",
        patch_range: PatchRange::ChunkOnly,
        ..Self::OTHER
    };

    /// A registry that takes a blob in one PUT only.
    pub(crate) const PUT_ONLY: Self = Self {
        name: "put only",
        patch: Patch::Refused(405),
        ..Self::DISTRIBUTION_3
    };

    /// A registry that takes a blob by PATCH only (E45).
    pub(crate) const PATCH_ONLY: Self = Self {
        name: "patch only",
        bytes_in_put: BytesInPut::Refused(400),
        ..Self::DISTRIBUTION_3
    };

    /// distribution without self-mounting.
    pub(crate) const NO_SELF_MOUNT: Self = Self {
        name: "no self-mount",
        self_mounts: false,
        ..Self::DISTRIBUTION_3
    };

    /// zot 2.1, from its documentation: the one that lists referrers.
    pub(crate) const ZOT: Self = Self {
        name: "zot",
        lists_referrers: true,
        tells_subject: true,
        ..Self::OTHER
    };

    /// All of them: the core scenarios run against each.
    pub(crate) const ALL: [Self; 15] = [
        Self::DISTRIBUTION_3,
        Self::DISTRIBUTION_2,
        Self::DISTRIBUTION_2_SCHEMA1,
        Self::GGCR,
        Self::GITEA,
        Self::PULP,
        Self::FERRO,
        Self::CUE,
        Self::ECR,
        Self::GHCR,
        Self::ALIBABA,
        Self::PUT_ONLY,
        Self::PATCH_ONLY,
        Self::NO_SELF_MOUNT,
        Self::ZOT,
    ];
}
