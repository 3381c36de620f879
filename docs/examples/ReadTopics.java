import com.fasterxml.jackson.databind.ObjectMapper;
import java.io.IOException;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.nio.ByteBuffer;
import java.time.Duration;
import java.util.Arrays;
import java.util.HashMap;
import java.util.Map;
import java.util.Properties;
import org.apache.avro.Schema;
import org.apache.avro.generic.GenericDatumReader;
import org.apache.avro.generic.GenericRecord;
import org.apache.avro.io.DecoderFactory;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;

/**
 * Prints every committed record of some topics, a line each: the topic, a tab, the record as JSON. Until Ctrl-C.
 *
 * <p>Needs org.apache.kafka:kafka-clients and org.apache.avro:avro (Jackson comes with it). Arguments: bootstrap
 * servers, the registry's address, the consumer group, topics.
 */
public final class ReadTopics {
    private final HttpClient http = HttpClient.newHttpClient();
    private final Map<Integer, Schema> schemas = new HashMap<>();
    private final String registry;

    private ReadTopics(String registry) {
        this.registry = registry;
    }

    public static void main(String[] arguments) throws IOException, InterruptedException {
        ReadTopics topics = new ReadTopics(arguments[1]);
        Properties settings = new Properties();
        settings.put("bootstrap.servers", arguments[0]);
        settings.put("group.id", arguments[2]);
        // The worker writes in transactions: without this, records appear that were never published.
        settings.put("isolation.level", "read_committed");
        settings.put("auto.offset.reset", "earliest");
        settings.put("enable.auto.commit", "false");
        settings.put("key.deserializer", ByteArrayDeserializer.class.getName());
        settings.put("value.deserializer", ByteArrayDeserializer.class.getName());
        try (KafkaConsumer<byte[], byte[]> consumer = new KafkaConsumer<>(settings)) {
            consumer.subscribe(Arrays.asList(arguments).subList(3, arguments.length));
            while (true) {
                for (ConsumerRecord<byte[], byte[]> record : consumer.poll(Duration.ofSeconds(1))) {
                    System.out.println(record.topic() + "\t" + topics.decoded(record.value()));
                }
                System.out.flush();
                // After the work, not before: what was printed twice is known by its id and revision.
                consumer.commitSync();
            }
        }
    }

    /** Reads Confluent's wire format: a zero byte, the id of the schema as four bytes, the record. */
    private GenericRecord decoded(byte[] value) throws IOException, InterruptedException {
        ByteBuffer bytes = ByteBuffer.wrap(value);
        if (bytes.get() != 0) {
            throw new IOException("the value is not in Confluent's wire format");
        }
        GenericDatumReader<GenericRecord> reader = new GenericDatumReader<>(schema(bytes.getInt()));
        int begin = bytes.position();
        return reader.read(null, DecoderFactory.get().binaryDecoder(value, begin, value.length - begin, null));
    }

    private Schema schema(int id) throws IOException, InterruptedException {
        Schema known = schemas.get(id);
        if (known == null) {
            HttpRequest request = HttpRequest.newBuilder(URI.create(registry + "/schemas/ids/" + id)).build();
            HttpResponse<String> answer = http.send(request, HttpResponse.BodyHandlers.ofString());
            if (answer.statusCode() != 200) {
                throw new IOException("the registry does not know schema id " + id + ": " + answer.body());
            }
            String text = new ObjectMapper().readTree(answer.body()).get("schema").asText();
            known = new Schema.Parser().parse(text);
            schemas.put(id, known);
        }
        return known;
    }
}
