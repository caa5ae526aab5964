// An app with Apollo's own clients, unmodified: one that reads and is told of changes, and one that writes through the Portal.
// Arguments: the URL of the Portal, its token. What the reading client needs are system properties.

import com.ctrip.framework.apollo.Config;
import com.ctrip.framework.apollo.ConfigService;
import com.ctrip.framework.apollo.model.ConfigChange;
import com.ctrip.framework.apollo.model.ConfigChangeEvent;
import com.ctrip.framework.apollo.openapi.client.ApolloOpenApiClient;
import com.ctrip.framework.apollo.openapi.dto.NamespaceReleaseDTO;
import com.ctrip.framework.apollo.openapi.dto.OpenAppNamespaceDTO;
import com.ctrip.framework.apollo.openapi.dto.OpenItemDTO;
import java.util.Objects;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.TimeUnit;

public class Apollo {
    static final String APP = "orders", ENV = "DEV", CLUSTER = "default", USER = "apollo";
    static ApolloOpenApiClient portal;

    public static void main(String[] arguments) throws Exception {
        portal = ApolloOpenApiClient.newBuilder().withPortalUrl(arguments[0]).withToken(arguments[1]).build();

        Config config = ConfigService.getAppConfig();
        expect("one", config.getProperty("greeting", "none"));
        expect("none", config.getProperty("absent", "none"));
        done("read");

        BlockingQueue<ConfigChangeEvent> changes = new LinkedBlockingQueue<>();
        config.addChangeListener(changes::add);
        put("application", "greeting", "two");
        put("application", "path/to key", "with=signs&more");
        expect("one", config.getProperty("greeting", "none"));
        release("application");
        ConfigChange change = next(changes).getChange("greeting");
        expect("one", change.getOldValue());
        expect("two", change.getNewValue());
        expect("MODIFIED", change.getChangeType().name());
        expect("two", config.getProperty("greeting", "none"));
        expect("with=signs&more", config.getProperty("path/to key", "none"));
        done("change");

        portal.removeItem(APP, ENV, CLUSTER, "application", "greeting", USER);
        release("application");
        change = next(changes).getChange("greeting");
        expect("DELETED", change.getChangeType().name());
        expect("none", config.getProperty("greeting", "none"));
        done("deletion");

        OpenAppNamespaceDTO created = new OpenAppNamespaceDTO();
        created.setAppId(APP);
        created.setName("sidecar_config_tags");
        created.setFormat("properties");
        created.setDataChangeCreatedBy(USER);
        expect("sidecar_config_tags", portal.createAppNamespace(created).getName());
        refused("status code: 400", () -> portal.createAppNamespace(created));
        put("sidecar_config_tags", "application@$greeting", "{\"color\":\"blue\"}");
        release("sidecar_config_tags");
        expect("{\"color\":\"blue\"}", portal.getLatestActiveRelease(APP, ENV, CLUSTER, "sidecar_config_tags")
            .getConfigurations().get("application@$greeting"));
        expect("{\"color\":\"blue\"}", ConfigService.getConfig("sidecar_config_tags").getProperty("application@$greeting", "none"));
        done("namespace");

        OpenItemDTO item = item("greeting", "three");
        portal.createItem(APP, ENV, CLUSTER, "application", item);
        refused("status code: 400", () -> portal.createItem(APP, ENV, CLUSTER, "application", item));
        expect("three", portal.getItem(APP, ENV, CLUSTER, "application", "greeting").getValue());
        expect("2", "" + portal.findItemsByNamespace(APP, ENV, CLUSTER, "application", 0, 10).getTotal());
        refused("status code: 404", () -> portal.updateItem(APP, ENV, CLUSTER, "application", item("absent", "x")));
        refused("status code: 404", () -> portal.removeItem(APP, ENV, CLUSTER, "application", "absent", USER));
        refused("status code: 400", () -> portal.removeItem(APP, ENV, CLUSTER, "application", "greeting", "nobody"));
        refused("status code: 404", () -> release("absent"));
        done("items");

        portal = ApolloOpenApiClient.newBuilder().withPortalUrl(arguments[0]).withToken("wrong").build();
        refused("status code: 401", () -> release("application"));
        done("token");
        System.exit(0); // the threads of the client do not end
    }

    static OpenItemDTO item(String key, String value) {
        OpenItemDTO item = new OpenItemDTO();
        item.setKey(key);
        item.setValue(value);
        item.setDataChangeCreatedBy(USER);
        item.setDataChangeLastModifiedBy(USER);
        return item;
    }

    static void put(String namespace, String key, String value) {
        portal.createOrUpdateItem(APP, ENV, CLUSTER, namespace, item(key, value));
    }

    static void release(String namespace) {
        NamespaceReleaseDTO release = new NamespaceReleaseDTO();
        release.setReleaseTitle("01-02-2026");
        release.setReleasedBy(USER);
        portal.publishNamespace(APP, ENV, CLUSTER, namespace, release);
    }

    static ConfigChangeEvent next(BlockingQueue<ConfigChangeEvent> changes) throws InterruptedException {
        ConfigChangeEvent event = changes.poll(60, TimeUnit.SECONDS);
        if (event == null) {
            throw new AssertionError("no change arrived");
        }
        return event;
    }

    static void refused(String text, Runnable call) {
        try {
            call.run();
        } catch (RuntimeException exception) {
            for (Throwable cause = exception; cause != null; cause = cause.getCause()) {
                if (String.valueOf(cause.getMessage()).contains(text)) {
                    return;
                }
            }
            throw exception;
        }
        throw new AssertionError("not refused with " + text);
    }

    static void expect(String expected, String actual) {
        if (!Objects.equals(expected, actual)) {
            throw new AssertionError("expected " + expected + ", got " + actual);
        }
    }

    static void done(String step) {
        System.out.println(step);
    }
}
