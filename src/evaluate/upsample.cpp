#include "evaluate/upsample.hpp"

#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "core/error.hpp"
#include "core/file.hpp"
#include "core/json.hpp"
#include "core/progress.hpp"
#include "core/stop_signals.hpp"
#include "data/index.hpp"
#include "evaluate/journal.hpp"
#include "evaluate/prompts.hpp"
#include "evaluate/upsample_instructions.hpp"
#include "text/unicode.hpp"

namespace strata {

namespace fs = std::filesystem;

namespace {

/// The keys of `rest` that `line` has not.
void add_others(nlohmann::ordered_json& line, const nlohmann::json& rest) {
  for (const auto& [key, value] : rest.items())
    if (!line.contains(key)) line[key] = value;
}

std::string folder_of(const std::string& path) {
  const std::string folder = fs::path(path).parent_path().string();
  return folder.empty() ? "." : folder;
}

/// `image` of an index in folder `from`, as an index in folder `to` must name it; of a tar's member
/// the tar's name.
std::string moved(const std::string& image, const std::string& from, const std::string& to) {
  if (image.empty() || from == to || fs::path(image).is_absolute()) return image;
  const std::size_t member = std::min(image.find("::"), image.size());
  return (fs::path(from) / image.substr(0, member)).lexically_proximate(to).string() +
         image.substr(member);
}

/// What stood in an entry, the caption first where it is not among `captions`.
std::vector<std::string> old_captions(const IndexEntry& entry) {
  std::vector<std::string> old = entry.captions;
  if (std::find(old.begin(), old.end(), entry.caption) == old.end())
    old.insert(old.begin(), entry.caption);
  return old;
}

/// Prompts that need no model.
std::vector<bool> blank_rows(const std::vector<std::string>& prompts) {
  std::vector<bool> blank;
  for (const std::string& prompt : prompts) blank.push_back(trimmed(prompt).empty());
  return blank;
}

}  // namespace

UpsampleWork upsample_prompts(const std::string& path) {
  auto set = std::make_shared<PromptSet>(read_prompts(path));
  UpsampleWork work;
  work.sha256 = set->sha256;
  for (const Prompt& prompt : set->prompts) work.prompts.push_back(prompt.text);
  work.line = [set](std::size_t row, const std::string& upsampled) {
    const Prompt& prompt = set->prompts[row];
    nlohmann::ordered_json line{
        {"id", prompt.id}, {"prompt", prompt.text}, {"upsampled", upsampled}};
    if (!prompt.skills.empty()) line["skills"] = prompt.skills;
    if (!prompt.others.empty()) add_others(line, nlohmann::json::parse(prompt.others));
    return line.dump();
  };
  return work;
}

UpsampleWork upsample_index(const std::string& path, const std::string& out) {
  const auto index = std::make_shared<Index>(Index::load(path));
  const auto lines = std::make_shared<std::vector<std::string>>();
  const std::string content = read_file(path, std::uint64_t{1} << 36);
  for (std::size_t begin = 0; begin < content.size();) {
    const std::size_t end = std::min(content.find('\n', begin), content.size());
    lines->push_back(content.substr(begin, end - begin));
    begin = end + 1;
  }
  UpsampleWork work;
  work.sha256 = index->sha256();
  for (std::int64_t i = 0; i < index->size(); ++i) work.prompts.push_back((*index)[i].caption);
  const std::string from = fs::weakly_canonical(folder_of(path)).string();
  const std::string to = fs::weakly_canonical(folder_of(out)).string();
  work.line = [=](std::size_t row, const std::string& upsampled) {
    const IndexEntry& entry = (*index)[static_cast<std::int64_t>(row)];
    nlohmann::ordered_json line;
    if (!entry.image.empty()) line["image"] = moved(entry.image, from, to);
    line["caption"] = upsampled;
    auto& captions = line["captions"] = nlohmann::ordered_json::array({upsampled});
    for (const std::string& caption : old_captions(entry)) captions.push_back(caption);
    add_others(line, parse_json((*lines)[row], path));
    return line.dump();
  };
  return work;
}

std::string default_instructions() {
  return std::string(upsample_instructions);
}

std::string instruct(const std::string& instructions, const std::string& prompt) {
  constexpr std::string_view place = "{prompt}";
  std::string told;
  std::size_t begin = 0;
  for (std::size_t at; (at = instructions.find(place, begin)) != std::string::npos;
       begin = at + place.size())
    told += instructions.substr(begin, at - begin) + prompt;
  told += instructions.substr(begin);
  const std::string bare(trimmed(told));
  return begin == 0 ? bare + "\n\n" + prompt : bare;
}

UpsampleReport upsample(Communicator& communicator, const UpsampleWork& work,
                        const UpsampleOptions& options, const UpsampleRows& make) {
  const bool first = communicator.rank() == 0;
  JournalFolder folder(folder_of(options.out) + "/.partial/" +
                       fs::path(options.out).filename().string());
  const std::string plan = nlohmann::json{
      {"input", work.sha256},
      {"rows", work.prompts.size()},
      {"plan", options.plan}}.dump();
  if (first) {
    if (file_exists(options.out) && !options.overwrite)
      fail(Exit::cannot_create, "{}: exists; give another --out, or --overwrite", options.out);
    folder.prepare(plan, options.overwrite);
  }
  communicator.barrier();

  UpsampleReport report{work.prompts.size(), 0, 0};
  std::vector<std::size_t> missing, mine;
  std::vector<bool> done = blank_rows(work.prompts);
  folder.read([&](std::size_t row, std::string&&) {
    if (row < report.rows) done[row] = true;
  });
  for (std::size_t row = 0; row < report.rows; ++row)
    if (!done[row]) missing.push_back(row);
  report.made = missing.size();
  for (auto i = static_cast<std::size_t>(communicator.rank()); i < missing.size();
       i += static_cast<std::size_t>(communicator.size()))
    mine.push_back(missing[i]);
  communicator.barrier();  // nobody writes before everybody has read

  // Rank 0 sees its own rows; every rank is taken to be as fast.
  const auto total = static_cast<std::int64_t>(report.rows);
  const auto before = total - static_cast<std::int64_t>(missing.size());
  Progress progress("upsample", total, "prompts");
  progress.update(before);
  together_until_stopped(communicator, [&] {
    if (mine.empty()) return;
    Journal journal(folder, communicator.rank());
    std::int64_t own = 0;
    make(mine, [&](std::size_t row, const std::string& text) {
      journal.append(row, std::string(trimmed(text)));
      progress.update(before + ++own * (total - before) / std::ssize(mine));
    });
  });
  progress.finish();
  if (first) {
    std::vector<std::string> texts(report.rows);
    done = blank_rows(work.prompts);
    folder.read([&](std::size_t row, std::string&& text) {
      if (row >= report.rows) return;
      texts[row] = std::move(text);
      done[row] = true;
    });
    std::string out;
    for (std::size_t row = 0; row < report.rows; ++row) {
      if (!done[row])
        fail(Exit::io, "{}: row {} is lost that a rank has written", folder.path(), row);
      report.empty += texts[row].empty();
      out += work.line(row, texts[row].empty() ? work.prompts[row] : texts[row]) + "\n";
    }
    write_file_atomically(options.out, out);
    folder.remove();
    std::error_code ignored;  // not empty: another output's work
    fs::remove(fs::path(folder.path()).parent_path(), ignored);
  }
  communicator.barrier();
  return report;
}

}  // namespace strata
