//! Tests of lists that are returned in pages.

use daemon_api::announcer::v1::{AnnouncementState, ListAnnouncementsRequest, ListSessionsRequest};
use tonic::Code;

use crate::environment::Environment;

const PREFIXES: [&str; 3] = ["10.1.1.1/32", "10.1.1.2/32", "10.1.1.10/32"];

#[tokio::test]
async fn announcements_are_listed_in_pages_in_the_order_of_their_prefixes() {
    let mut environment = Environment::start(&["--allowed-prefixes=10.1.0.0/16"]).await;
    for prefix in PREFIXES {
        environment.data_plane.stop_serving(prefix, "");
        let state = AnnouncementState::NotServing;
        environment.wait_for_state(prefix, state).await;
    }
    let mut request = ListAnnouncementsRequest {
        page_size: 2,
        ..Default::default()
    };
    let mut prefixes = Vec::new();
    for expected in [2, 1] {
        let page = environment.client.list_announcements(request.clone()).await;
        let page = page.expect("is served").into_inner();
        assert_eq!((page.announcements.len(), page.total_size), (expected, 3));
        prefixes.extend(page.announcements.into_iter().map(|it| it.prefix));
        request.page_token = page.next_page_token;
    }
    assert_eq!(prefixes, PREFIXES);
    assert_eq!(request.page_token, "");
}

#[tokio::test]
async fn a_page_token_of_another_list_is_rejected() {
    let mut environment = Environment::start(&["--allowed-prefixes=10.1.0.0/16"]).await;
    for prefix in PREFIXES {
        environment.data_plane.stop_serving(prefix, "");
        let state = AnnouncementState::NotServing;
        environment.wait_for_state(prefix, state).await;
    }
    let request = ListAnnouncementsRequest {
        page_size: 1,
        ..Default::default()
    };
    let page = environment.client.list_announcements(request).await;
    let request = ListSessionsRequest {
        page_token: page.expect("is served").into_inner().next_page_token,
        ..Default::default()
    };
    let error = environment.client.list_sessions(request).await;
    let error = error.expect_err("the page token belongs to ListAnnouncements");
    assert_eq!(error.code(), Code::InvalidArgument);
    assert!(error.message().contains("`page_token`"), "{error}");
}
