pub(crate) mod auth;
pub(crate) mod credentials;
pub(crate) mod url;
