#include "dist/gathers.hpp"

#include "core/spans.hpp"

namespace strata {

Gathers::Gathers(Exec& exec, Communicator& channel, const Sharding& sharding, Worker& worker,
                 bool overlap)
    : exec_(exec),
      channel_(channel),
      sharding_(sharding),
      worker_(worker),
      overlap_(overlap),
      order_(channel.order()),
      is_away_(sharding.buckets().size(), 0),
      is_gathered_(sharding.buckets().size(), 1) {
  for (std::size_t b = 0; b < is_away_.size(); ++b) gathered_.push_back(exec.make_moment());
}

void Gathers::post(Tensor flat, int b) {
  if (order_) order_->wait_for(exec_);  // this rank's part is complete
  worker_.post([this, flat, b] {
    const spans::Span span("all-gather", "communication", b);
    const Bucket& bucket = sharding_.buckets()[b];
    channel_.all_gather(flat.rows(bucket.flat.begin, bucket.flat.end), bucket.part);
  });
}

void Gathers::begin(Tensor parameters, int b) {
  is_away_[b] = 1;
  {
    const std::lock_guard lock(worker_.mutex());
    is_gathered_[b] = 0;
  }
  post(parameters, b);
  worker_.post([this, b] {
    if (order_) order_->mark(*gathered_[b]);
    const std::lock_guard lock(worker_.mutex());
    is_gathered_[b] = 1;
  });
  if (!overlap_) await_bucket(b);
}

void Gathers::await_bucket(int b) {
  if (!is_away_[b]) return;
  worker_.wait_until([&] { return is_gathered_[b] != 0; });
  if (order_) exec_.wait_for(*gathered_[b]);
  is_away_[b] = 0;
}

void Gathers::needs_all() {
  for (int b = 0; b < static_cast<int>(is_away_.size()); ++b) await_bucket(b);
}

void Gathers::await_all() {
  needs_all();
  look_at_ranks();
}

void Gathers::finish_posted() {
  worker_.drain();
  if (order_) exec_.wait_for(*order_);
  look_at_ranks();
}

void Gathers::look_at_ranks() {
  if (!order_) return;
  const auto so_far = exec_.make_moment();
  exec_.mark(*so_far);
  channel_.await(*so_far);
}

}  // namespace strata
