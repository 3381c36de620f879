"""The table of indicators: which activities make a switched-off feed look like an attack, and why.

| category | counts for `actor_compromise_indicators` | counts for `post_gap_review` |
|---|---|---|
| sign_in, second_factor | from 24 hours before the disable to 1 hour after it | no |
| role, owner, credential | in the 30 days before it | yes |
| export | from 24 hours before it to 24 hours after it | yes |
| sharing, member, watch | no | yes |

Types and their fields are those of the vendor's activity catalogue. A type that is not in the table is no indicator.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from auditgap.core import times

HOUR: Final = 3600 * times.SECOND
DAY: Final = 24 * HOUR


@dataclass(frozen=True, slots=True)
class Category:
    """One kind of indicator; `before` and `after` the disable bound where it counts, None if it does not."""

    name: str
    meaning: str
    before: int | None
    after: int | None
    review: bool


CATEGORIES: Final = {
    category.name: category
    for category in (
        Category("sign_in", "sign-in failures or oddities", DAY, HOUR, review=False),
        Category("second_factor", "second factor or sign-in rules changed or bypassed", DAY, HOUR, review=False),
        Category("role", "role changes", 30 * DAY, 0, review=True),
        Category("owner", "owner changes", 30 * DAY, 0, review=True),
        Category("credential", "credentials created or widened", 30 * DAY, 0, review=True),
        Category("export", "exports", DAY, DAY, review=True),
        Category("sharing", "sharing", None, None, review=True),
        Category("member", "new members", None, None, review=True),
        Category("watch", "changes to what the organization inherits or sends", None, None, review=True),
    )
}

LONGEST_BEFORE: Final = max(category.before or 0 for category in CATEGORIES.values())
"""How far before a disable the record has to reach for everything to be covered."""


@dataclass(frozen=True, slots=True)
class Indicator:
    """One row: an activity type, its category, and why it matters.

    `subjects` are the fields that name whom it is done to, each with the kind of identity it holds (`principal`: told
    by the id's own prefix); `makes` are the fields that hold the id of a key it creates, which can be an actor later.
    Where `ordinary` is given, the field's values listed there are no indicator.
    """

    type: str
    category: str
    why: str
    subjects: tuple[tuple[str, str], ...] = ()
    makes: tuple[str, ...] = ()
    ordinary: tuple[str, frozenset[str]] | None = None

    def __post_init__(self) -> None:
        if self.category not in CATEGORIES:
            raise ValueError(f"{self.category!r} is no category of the table")

    def counts(self, record: Mapping[str, object]) -> bool:
        """Whether this record is one: a successful authentication, for one, is not."""
        if self.ordinary is None:
            return True
        field, values = self.ordinary
        return str(record.get(field)).lower() not in values


_SUCCESS: Final = frozenset({"success", "succeeded", "successful", "ok", "allowed", "accepted", "granted", "issued"})
_USER: Final = (("user_id", "user"),)
_PRINCIPAL: Final = (("principal_id", "principal"),)
_SERVICE: Final = (("service_account_id", "service"),)

INDICATORS: Final = {
    indicator.type: indicator
    for indicator in (
        # --- sign-ins -------------------------------------------------------------------------------------------------
        Indicator("sso_login_failed", "sign_in", "a single sign-on was refused: somebody may be trying the account"),
        Indicator(
            "magic_link_login_failed", "sign_in", "a sign-in by e-mail link was refused: guessed, stale or stolen"
        ),
        Indicator("anonymous_mobile_login_attempted", "sign_in", "a mobile sign-in was tried without an account"),
        Indicator(
            "step_up_authentication_failed",
            "sign_in",
            "the proof asked for before a sensitive step was refused: the session may not be its owner's",
        ),
        Indicator(
            "platform_federated_authentication",
            "sign_in",
            "an outside identity was refused a token: a workload may be impersonated",
            subjects=(("requested_service_account_id", "service"),),
            ordinary=("outcome", _SUCCESS),
        ),
        Indicator(
            "platform_app_attest_authentication",
            "sign_in",
            "a device could not prove that it is genuine",
            ordinary=("outcome", _SUCCESS),
        ),
        # --- second factor and the rules of signing in ----------------------------------------------------------------
        Indicator(
            "sso_second_factor_magic_link",
            "second_factor",
            "an e-mail link stood in for the second factor: whoever reads the mailbox passes",
        ),
        Indicator(
            "org_magic_link_second_factor_toggled",
            "second_factor",
            "whether an e-mail link is asked for as second factor was changed for everybody",
        ),
        Indicator("step_up_credential_enrolled", "second_factor", "a new authenticator was registered"),
        Indicator("trusted_device_enrolled", "second_factor", "a new device is trusted from now on"),
        Indicator("trusted_device_credential_rotated", "second_factor", "a trusted device's credential was replaced"),
        Indicator(
            "trusted_device_revoked", "second_factor", "a trusted device was removed: its owner may be locked out"
        ),
        Indicator(
            "org_user_trusted_devices_revoked",
            "second_factor",
            "somebody's trusted devices were all removed, and their sessions ended",
            subjects=_USER,
        ),
        Indicator("org_sso_toggled", "second_factor", "single sign-on was switched on or off for everybody"),
        Indicator("org_sso_connection_activated", "second_factor", "another identity provider may let people in"),
        Indicator("org_sso_connection_deactivated", "second_factor", "the identity provider no longer guards sign-ins"),
        Indicator("org_sso_connection_deleted", "second_factor", "the identity provider was removed"),
        Indicator("claude_pubsec_identity_configured", "second_factor", "how identities are proved was configured"),
        Indicator("org_ip_restriction_created", "second_factor", "the addresses that may connect were limited anew"),
        Indicator("org_ip_restriction_updated", "second_factor", "the addresses that may connect were changed"),
        Indicator("org_ip_restriction_deleted", "second_factor", "a limit on the addresses that may connect is gone"),
        # --- roles ----------------------------------------------------------------------------------------------------
        Indicator(
            "claude_user_role_updated",
            "role",
            "a member's role was changed: perhaps the step that made the disable possible",
            subjects=(("user_id", "user"), ("user_email", "email")),
        ),
        Indicator("rbac_role_assigned", "role", "somebody was given a role", subjects=_PRINCIPAL),
        Indicator("rbac_role_unassigned", "role", "somebody lost a role", subjects=_PRINCIPAL),
        Indicator("rbac_role_created", "role", "a new role exists, which can be given away"),
        Indicator("rbac_role_updated", "role", "what a role is was changed"),
        Indicator("rbac_role_deleted", "role", "a role was removed from all who had it"),
        Indicator("rbac_role_permission_added", "role", "a role may do more, and all who have it"),
        Indicator("rbac_role_permission_removed", "role", "a role may do less: others may be kept from stepping in"),
        Indicator(
            "role_assignment_granted",
            "role",
            "somebody was given rights on a resource",
            subjects=(("target_id", "principal"),),
        ),
        Indicator(
            "role_assignment_revoked",
            "role",
            "somebody lost rights on a resource",
            subjects=(("target_id", "principal"),),
        ),
        Indicator("org_capability_grant_added", "role", "a role or workspace was granted a capability"),
        Indicator("org_capability_grant_removed", "role", "a role or workspace lost a capability"),
        Indicator("org_sso_group_role_mappings_updated", "role", "groups of the identity provider map to other roles"),
        Indicator(
            "org_sso_provisioning_mode_changed", "role", "who becomes a member, and as what, is decided otherwise"
        ),
        Indicator("ccr_role_channel_assignment_updated", "role", "a role reaches other channels"),
        Indicator(
            "group_member_added",
            "role",
            "somebody joined a group, and has its rights",
            subjects=(("member_ids", "principal"),),
        ),
        Indicator("platform_workspace_member_updated", "role", "a workspace member's role was changed", subjects=_USER),
        Indicator(
            "platform_service_account_workspace_member_updated",
            "role",
            "a service account's role in a workspace was changed",
            subjects=_SERVICE,
        ),
        # --- owners ---------------------------------------------------------------------------------------------------
        Indicator(
            "primary_owner_transferred",
            "owner",
            "the organization has another Primary Owner",
            subjects=(("new_owner_id", "user"), ("previous_owner_id", "user")),
        ),
        # --- credentials ----------------------------------------------------------------------------------------------
        Indicator(
            "admin_api_key_created",
            "credential",
            "an admin key can do all that an admin can, and outlives a session",
            makes=("admin_api_key_id",),
        ),
        Indicator(
            "admin_api_key_updated", "credential", "an admin key was changed", subjects=(("admin_api_key_id", "key"),)
        ),
        Indicator("api_key_created", "credential", "a key with scopes of its own was created", makes=("api_key_id",)),
        Indicator("scoped_api_key_updated", "credential", "a key with scopes was changed", (("api_key_id", "key"),)),
        Indicator("platform_api_key_created", "credential", "an API key was created", makes=("api_key_id",)),
        Indicator("platform_api_key_updated", "credential", "an API key was changed", (("api_key_id", "key"),)),
        Indicator("service_key_created", "credential", "a service got a key", makes=("service_key_id",)),
        Indicator("service_created", "credential", "a service was created, which can hold keys"),
        Indicator("platform_oauth_app_created", "credential", "an application can ask for access in people's name"),
        Indicator("platform_oauth_app_updated", "credential", "what an application can ask for was changed"),
        Indicator("platform_service_account_updated", "credential", "a service account was changed", subjects=_SERVICE),
        Indicator("platform_federation_issuer_updated", "credential", "whose tokens are trusted was changed"),
        Indicator("platform_federation_rule_updated", "credential", "which outside identities get in was changed"),
        Indicator(
            "platform_federation_rule_workspace_added", "credential", "outside identities reach another workspace"
        ),
        Indicator("platform_signing_key_created", "credential", "a signing key was created"),
        Indicator("platform_signing_key_rotated", "credential", "a signing key was replaced"),
        Indicator("ccr_agent_proxy_credential_created", "credential", "an agent was given a credential to use"),
        Indicator("ccr_agent_proxy_credential_rotated", "credential", "an agent's credential was replaced"),
        Indicator("ccr_agent_proxy_credential_updated", "credential", "where an agent's credential works was changed"),
        Indicator("claude_code_runner_pool_secret_minted", "credential", "a secret that lets runners join was made"),
        Indicator("tunnel_token_minted", "credential", "a token for a tunnel into a network was made"),
        Indicator("tunnel_token_revealed", "credential", "a tunnel's token was shown to somebody"),
        Indicator("tunnel_token_rotated", "credential", "a tunnel's token was replaced"),
        Indicator("tunnel_certificate_added", "credential", "another certificate opens a tunnel"),
        Indicator("github_token_import", "credential", "a token for source code was brought in"),
        Indicator(
            "inference_hooks_signing_secret_generated", "credential", "the secret that proves hooks was made anew"
        ),
        # --- exports --------------------------------------------------------------------------------------------------
        Indicator("org_data_export_started", "export", "the organization's data is being exported"),
        Indicator("org_data_export_completed", "export", "an export of the organization's data is ready"),
        Indicator("org_data_export_accessed", "export", "an export of the organization's data was fetched"),
        Indicator("org_members_exported", "export", "the list of members was exported"),
        Indicator("audit_log_export_started", "export", "the audit log was exported: it shows what defenders can see"),
        Indicator("audit_log_export_accessed", "export", "an export of the audit log was fetched"),
        Indicator("claude_file_exported", "export", "a file left for another service"),
        # --- sharing --------------------------------------------------------------------------------------------------
        Indicator("claude_project_sharing_updated", "sharing", "others can see a project"),
        Indicator("claude_artifact_sharing_updated", "sharing", "others can see an artifact"),
        Indicator("claude_artifact_published", "sharing", "an artifact was published"),
        Indicator("claude_chat_snapshot_created", "sharing", "a chat can be read by link"),
        Indicator("session_share_created", "sharing", "a session can be read by link"),
        Indicator(
            "pending_share_created", "sharing", "something was offered to an address", (("invitee_email", "email"),)
        ),
        Indicator("group_visibility_updated", "sharing", "who sees a group, or can share with it, was changed"),
        Indicator("design_project_sharing_updated", "sharing", "others can see a design project"),
        Indicator("design_project_published", "sharing", "a design project was published"),
        Indicator("design_project_artifact_published", "sharing", "a design was published"),
        Indicator("design_project_member_added", "sharing", "somebody joined a design project", subjects=_PRINCIPAL),
        Indicator("design_project_member_role_updated", "sharing", "a design project's member may do other things"),
        # --- new members ----------------------------------------------------------------------------------------------
        Indicator("org_user_invite_sent", "member", "somebody was invited", subjects=(("invited_email", "email"),)),
        Indicator("org_user_invite_re_sent", "member", "somebody was invited again", (("invited_email", "email"),)),
        Indicator("org_user_invite_accepted", "member", "somebody joined by invitation"),
        Indicator("org_join_request_approved", "member", "somebody who asked to join was let in"),
        Indicator("org_join_request_instant_approved", "member", "somebody was let in without anybody being asked"),
        Indicator("org_invite_link_generated", "member", "whoever has the link can join"),
        Indicator("org_invite_link_regenerated", "member", "whoever has the new link can join"),
        Indicator("org_member_invites_enabled", "member", "any member can invite others"),
        Indicator("scim_user_created", "member", "the directory added a user", subjects=_USER),
        Indicator("platform_workspace_member_added", "member", "somebody joined a workspace", subjects=_USER),
        Indicator(
            "platform_service_account_workspace_member_added",
            "member",
            "a service account joined a workspace",
            subjects=_SERVICE,
        ),
        # --- watch list -----------------------------------------------------------------------------------------------
        Indicator(
            "org_parent_join_proposal_created",
            "watch",
            "under another parent the organization inherits that parent's audit settings",
        ),
        Indicator("org_join_proposal_decided", "watch", "the organization's parent, and what it inherits, may change"),
        Indicator("org_deletion_requested", "watch", "with the organization its record goes"),
        Indicator("org_bulk_delete_initiated", "watch", "organizations are being deleted, and their records"),
        Indicator("org_deleted_via_bulk", "watch", "an organization was deleted, and its record"),
        Indicator("org_cowork_otlp_settings_updated", "watch", "where telemetry and content are sent was changed"),
    )
}
"""Every indicator by its activity type."""

LINK_TYPES: Final = frozenset(
    {
        "magic_link_login_succeeded",
        "phone_code_verified",
        "platform_federated_authentication",
        "social_login_succeeded",
        "sso_login_succeeded",
    }
)
"""Successful sign-ins: no indicator, but they tell which user id, e-mail and outside identity belong together."""
