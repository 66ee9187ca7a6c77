"""Signing in, accounts and users, as people see them in a browser."""

from __future__ import annotations

from playwright.sync_api import Page

from tests.integration.browser import PagesCase


class SignInTests(PagesCase):
    """The sign-in page."""

    def test_sign_in(self) -> None:
        """A wrong password is told, the right one opens the log; signing out leads back."""
        page = self.visit()
        page.goto("/log?tag=welcome")
        self.shots(page, "sign-in")
        page.get_by_label("E-mail address").fill(self.user)
        page.get_by_label("Password").fill("wrong")
        page.keyboard.press("Enter")
        page.get_by_role("alert").wait_for()
        self.shots(page, "sign-in-wrong")
        page.get_by_label("Password").fill(self.passwords[self.user])
        page.keyboard.press("Enter")
        page.wait_for_url("**/log?tag=welcome")
        page.locator("details.menu summary").click()
        self.shots(page, "menu", full=False)
        page.get_by_role("button", name="Sign out").click()
        page.wait_for_url("**/sign-in")

    def test_password(self) -> None:
        """The password is changed on its page."""
        page = self.sign_in()
        page.goto("/password")
        self.shots(page, "password")
        page.get_by_label("Password now").fill(self.passwords[self.user])
        page.get_by_label("New password").fill("a new password")
        page.get_by_role("button", name="Change password").click()
        page.get_by_text("Your password was changed").wait_for()
        self.sign_in(password="a new password")


class ImpersonationTests(PagesCase):
    """An administrator looks at an account."""

    def test_look_and_leave(self) -> None:
        """A banner says so, and leaving is one click."""
        self.post(subject="For Local")
        page = self.sign_in(self.administrator)
        page.wait_for_url("**/admin/accounts")
        self.shots(page, "admin-accounts")
        page.get_by_role("button", name="Look at it").click()
        page.goto("/log")
        page.get_by_text("You look at the account").wait_for()
        self.shots(page, "impersonating")
        page.get_by_role("button", name="Leave Local").click()
        page.wait_for_url("**/admin/accounts")


class AdministrationTests(PagesCase):
    """An administrator makes an account and a user, who signs in."""

    def test_new_customer(self) -> None:
        """From nothing to a user who sees the key of a new account."""
        page = self.sign_in(self.administrator)
        page.goto("/admin/accounts")
        page.get_by_label("Name").fill("Example Ltd")
        page.get_by_role("button", name="Add account").click()
        page.get_by_text("Example Ltd was added").wait_for()
        self.shots(page, "admin-account")
        page.get_by_role("link", name="Add a user").click()
        page.get_by_label("E-mail address").fill("jane@example.com")
        self.shots(page, "admin-users")
        page.get_by_role("button", name="Add user").click()
        password = page.locator("#password").inner_text()
        self.shots(page, "admin-user-added")
        page.get_by_role("link", name="Done").click()
        page.locator("tr", has_text="jane@example.com").get_by_text("Change…").click()
        self.shots(page, "admin-users-menu", full=False)
        user = self.sign_in("jane@example.com", password)
        user.goto("/integrate")
        self.assertEqual(len(user.locator("#key").inner_text()), 40)
        self.assertEqual(user.locator("a[href^='/admin']").count(), 0)
        page.goto("/admin/accounts/2")
        page.get_by_text("Disable…").click()
        self.shots(page, "admin-account-disable")
        page.get_by_role("button", name="Disable Example Ltd").click()
        page.get_by_text("is disabled").wait_for()
        user.goto("/integrate")
        user.wait_for_url("**/sign-in**")


class AttackTests(PagesCase):
    """A page of somebody else's, in the browser of who is signed in (THREATS.md, "CSRF, clickjacking")."""

    def attack(self, page: Page, origin: str, document: str) -> Page:
        """A second tab, at a page of *origin*."""
        tab = page.context.new_page()
        tab.route(f"{origin}/**", lambda route: route.fulfill(body=document, content_type="text/html"))
        tab.goto(f"{origin}/")
        return tab

    def test_forms(self) -> None:
        """A form that it sends changes nothing, from another site and from another port, where cookies come along."""
        page = self.sign_in()
        form = (
            f'<form method="post" action="{self.url}/integrate/reset"><input name="csrf" value="x"></form>'
            "<script>document.forms[0].submit()</script>"
        )
        tab = self.attack(page, "http://evil.example", form)
        tab.wait_for_url(f"{self.url}/**")
        # The form came without the cookie, and was sent to sign in; that GET came with it.
        self.assertEqual(tab.get_by_role("heading").first.inner_text(), "Dashboard")
        tab = self.attack(page, "http://127.0.0.1:9", form)
        tab.wait_for_url(f"{self.url}/**")
        self.assertEqual(tab.get_by_role("heading").first.inner_text(), "Sent from elsewhere")
        self.shots(tab, "error")
        page.goto("/integrate")
        self.assertEqual(page.locator("#key").inner_text(), self.relay.api_key)

    def test_frames(self) -> None:
        """It cannot put a page of ours into a frame."""
        page = self.sign_in()
        tab = self.attack(page, "http://127.0.0.1:9", f'<iframe src="{self.url}/integrate"></iframe>')
        tab.wait_for_timeout(500)
        self.assertEqual(tab.frames[1].get_by_text("Integrate").count(), 0)
        self.assertNotIn(self.url, tab.frames[1].url)
